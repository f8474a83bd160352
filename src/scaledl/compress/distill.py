"""Train a smaller student on the source run's model (Hinton et al. 2015)."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

from scaledl.compress.stage import StageContext, finetune, finetune_config, stage_key, start_model
from scaledl.compress.students import Student, default_student, measure, structure_macs
from scaledl.config.schema import DistillConfig, ModelConfig
from scaledl.console import get_console
from scaledl.errors import UsageError
from scaledl.models.structure import Model, Structure, new_model

_MODEL_CONFIG: TypeAdapter[Any] = TypeAdapter(ModelConfig)


def apply(model: Model, context: StageContext) -> Model:
    """Train a fresh student with the source run's model as teacher; `model` itself is left behind.

    Raises UsageError when the student is larger than its teacher or has other classes.
    """
    stage = context.stage
    assert isinstance(stage, DistillConfig), stage.method
    teacher = context.teacher.structure
    start = start_model(context.run, lambda: _new_student(stage, teacher, context), trust=context.trust)
    return finetune(start, context, finetune_config(context, epochs_share=1.0, lr_share=1.0))


def choose_student(stage: DistillConfig, teacher: Structure, index: int) -> Student:
    """The student that the stage names, or the default one.

    Raises UsageError when its keys are wrong, it has other classes, or more multiply-accumulates than the teacher.
    """
    key = f"{stage_key(index)}.student"
    if stage.student is None:
        return default_student(teacher, key=key)
    section = _section(stage.student, teacher, key)
    if section.num_classes not in (None, teacher.outputs.count):
        raise UsageError(
            f"{key}.num_classes: got {section.num_classes}; allowed: {teacher.outputs.count}, the classes "
            "of the teacher and the data; remove the key"
        )
    teacher_macs = structure_macs(teacher)
    student = measure(section, teacher, teacher_macs)
    if student.macs > teacher_macs:
        raise UsageError(
            f"{key}: got {stage.student} with {student.macs:,} multiply-accumulates; allowed: at most the "
            f"teacher's {teacher_macs:,}; choose less depth or width, or leave the key out for a quarter"
        )
    return student


def _section(given: dict[str, Any], teacher: Structure, key: str) -> Any:
    try:
        return _MODEL_CONFIG.validate_python({"family": teacher.family, **given})
    except ValidationError as error:
        problems = [_describe(key, problem) for problem in error.errors()]
        raise UsageError("\n".join(problems)) from None


def _describe(key: str, problem: Any) -> str:
    path = ".".join(str(part) for part in problem["loc"][1:])  # the first part is the family
    return f"{key}{'.' if path else ''}{path}: got {problem['input']!r}; {problem['msg']}"


def _new_student(stage: DistillConfig, teacher: Structure, context: StageContext) -> Model:
    student = choose_student(stage, teacher, context.index)
    changed = student.section.model_dump(exclude_defaults=True)
    shown = {name: value for name, value in {"family": student.section.family, **changed}.items() if value is not None}
    get_console().info(
        f"{context.label}: student {' '.join(f'{name}={value}' for name, value in shown.items())}, "
        f"{student.macs:,} multiply-accumulates, {student.ratio:.0%} of the teacher's"
    )
    return new_model(student.section, teacher.inputs, teacher.outputs, context.config.run.seed)
