"""The default student of a distillation: the teacher's family at about a quarter of its multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from scaledl.bench import count_macs
from scaledl.compress.students_sequence import SEQUENCE_CANDIDATES
from scaledl.compress.students_vision import VISION_CANDIDATES
from scaledl.config.schema import MLPConfig, ResNetConfig
from scaledl.errors import UsageError
from scaledl.models.structure import Structure, build

TARGET_RATIO = 0.25
NEAR = (0.18, 0.32)
RESNET_STYLES = ((8, 14, 20, 32, 44, 56), (18, 34, 50))
WIDTH_SHARES = (1.0, 0.75, 0.625, 0.5, 0.375, 0.25)

Section = Any  # a member of ModelConfig


@dataclass(frozen=True)
class Student:
    """A model section with its multiply-accumulates for one sample, and their share of the teacher's."""

    section: Section
    macs: int
    ratio: float


def default_student(teacher: Structure, *, key: str) -> Student:
    """The shallowest candidate of the family near a quarter of the teacher's MACs, else the nearest one.

    Fewer layers at equal MACs run faster at batch 1. Raises UsageError when the family has no smaller member.
    """
    candidates_fn = CANDIDATES.get(teacher.family)
    if candidates_fn is None:
        raise UsageError(f"{key}: there is no default student for {teacher.family!r}; give its model keys")
    teacher_macs = structure_macs(teacher)
    measured = [measure(section, teacher, teacher_macs) for section in candidates_fn(teacher)]
    smaller = [student for student in measured if student.ratio < 1]
    if not smaller:
        raise UsageError(f"{key}: no smaller {teacher.family} than the teacher is known; give the student's model keys")
    near = [student for student in smaller if NEAR[0] <= student.ratio <= NEAR[1]]
    return min(near, key=_depth_then_distance) if near else min(smaller, key=_distance)


def measure(section: Section, teacher: Structure, teacher_macs: int) -> Student:
    """Count the MACs of `section` on the teacher's input and classes."""
    macs = structure_macs(structure_of(section, teacher))
    return Student(section, macs, macs / teacher_macs)


def structure_of(section: Section, teacher: Structure) -> Structure:
    """That of a student for the teacher's inputs and outputs."""
    return Structure(section.family, section.model_dump(mode="json"), teacher.inputs, teacher.outputs)


def structure_macs(structure: Structure) -> int:
    """Multiply-accumulates of one sample."""
    return count_macs(build(structure, trust=True).eval(), structure.inputs.example(1))


def _resnets(teacher: Structure) -> Iterator[ResNetConfig]:
    depth = teacher.config["depth"]
    style = next(style for style in RESNET_STYLES if depth in style)
    width = teacher.config["width"] or (16 if style is RESNET_STYLES[0] else 64)
    widths = sorted({max(4, round(width * share / 4) * 4) for share in WIDTH_SHARES})
    for smaller in (d for d in style if d <= depth):
        for narrower in (w for w in widths if w <= width):
            yield ResNetConfig.model_validate({**teacher.config, "depth": smaller, "width": narrower})


def _mlps(teacher: Structure) -> Iterator[MLPConfig]:
    hidden = teacher.config["hidden"]
    for share in (step / 32 for step in range(1, 32)):
        yield MLPConfig.model_validate({**teacher.config, "hidden": [max(1, round(units * share)) for units in hidden]})


CANDIDATES: dict[str, Callable[[Structure], Iterator[Section]]] = {
    "resnet": _resnets,
    "mlp": _mlps,
    **SEQUENCE_CANDIDATES,
    **VISION_CANDIDATES,
}


def _distance(student: Student) -> float:
    return abs(math.log(student.ratio / TARGET_RATIO))


def _depth_then_distance(student: Student) -> tuple[int, float]:
    depth = int(getattr(student.section, "depth", 0) or getattr(student.section, "layers", 0))
    return depth, _distance(student)
