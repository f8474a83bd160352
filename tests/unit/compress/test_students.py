"""Choosing a student: the default one, and what a user may not ask for."""

from __future__ import annotations

from typing import Any

import pytest

from scaledl.compress.distill import choose_student
from scaledl.compress.students import structure_macs
from scaledl.config.schema import (
    DistillConfig,
    GPTConfig,
    GRUConfig,
    LSTMConfig,
    MLPConfig,
    ResNetConfig,
    RNNConfig,
    TransformerConfig,
)
from scaledl.errors import UsageError
from scaledl.models.structure import Structure
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.unit


def teacher(config: Any, in_shape: tuple[int, ...] = (1, 8, 8)) -> Structure:
    return Structure(config.family, config.model_dump(mode="json"), Inputs.of(in_shape), Outputs(10))


def student(structure: Structure, keys: dict[str, Any] | None = None, index: int = 0) -> Any:
    return choose_student(DistillConfig(student=keys), structure, index)


@pytest.mark.parametrize(
    "config",
    [
        ResNetConfig(family="resnet", depth=8, width=16),
        ResNetConfig(family="resnet", depth=20),
        ResNetConfig(family="resnet", depth=56, width=32),
        ResNetConfig(family="resnet", depth=18, width=32),
        MLPConfig(family="mlp", hidden=[256]),
        MLPConfig(family="mlp", hidden=[512, 128]),
    ],
    ids=str,
)
def test_the_default_is_of_the_family_at_about_a_quarter(config: Any) -> None:
    structure = teacher(config)
    chosen = student(structure)
    assert chosen.section.family == config.family
    assert 0.18 <= chosen.ratio <= 0.32
    assert chosen.ratio == chosen.macs / structure_macs(structure)


TEXT, SERIES = Inputs("text", (32,), vocabulary=50), Inputs("series", (3, 40))
SEQUENCE: list[tuple[Any, Inputs, Outputs]] = [
    (RNNConfig(family="rnn", nonlinearity="relu"), SERIES, Outputs(4)),
    (LSTMConfig(family="lstm", layers=2, bidirectional=True, pooling="max"), TEXT, Outputs(4)),
    (GRUConfig(family="gru", hidden=64, embedding=32, dense=32), TEXT, Outputs(4, "steps")),
    (TransformerConfig(family="transformer", width=64, norm="post"), TEXT, Outputs(4)),
    (TransformerConfig(family="transformer", width=64, heads=8, layers=1, feedforward=64, patch=4), SERIES, Outputs(4)),
    (GPTConfig(family="gpt", width=64, layers=6, tied=False), TEXT, Outputs(50, "steps")),
]


@pytest.mark.parametrize(("config", "inputs", "outputs"), SEQUENCE, ids=lambda value: getattr(value, "family", ""))
def test_the_default_for_texts_and_series(config: Any, inputs: Inputs, outputs: Outputs) -> None:
    structure = Structure(config.family, config.model_dump(mode="json"), inputs, outputs)
    chosen = student(structure)
    assert 0.18 <= chosen.ratio <= 0.32
    assert chosen.ratio == chosen.macs / structure_macs(structure)
    sizes = {"layers", "hidden", "embedding", "dense", "heads", "width", "feedforward"}
    assert chosen.section.model_dump(exclude=sizes) == config.model_dump(exclude=sizes)
    if "heads" in type(config).model_fields:
        assert chosen.section.width // chosen.section.heads == config.width // config.heads


def test_the_default_prefers_fewer_layers() -> None:
    assert student(teacher(ResNetConfig(family="resnet", depth=20))).section.depth == 8


def test_the_smallest_possible_teacher_has_no_default_student() -> None:
    with pytest.raises(UsageError, match=r"compress\.stages\[2\]\.student: no smaller mlp"):
        student(teacher(MLPConfig(family="mlp", hidden=[])), index=2)


def test_a_family_without_a_default_asks_for_keys() -> None:
    with pytest.raises(UsageError, match=r"compress\.stages\[0\]\.student: there is no default student for 'nothing'"):
        student(Structure("nothing", {}, Inputs.of((1, 8, 8)), Outputs(10)))


def test_keys_are_of_the_teachers_family_by_default() -> None:
    chosen = student(teacher(ResNetConfig(family="resnet", depth=20)), {"depth": 14, "width": 8})
    assert chosen.section == ResNetConfig(family="resnet", depth=14, width=8)


def test_another_family_can_be_asked_for() -> None:
    chosen = student(teacher(ResNetConfig(family="resnet", depth=20)), {"family": "mlp", "hidden": [8]})
    assert chosen.section == MLPConfig(family="mlp", hidden=[8])


REFUSED = {
    "larger": ({"depth": 20, "width": 64}, r"student: got .*multiply-accumulates; allowed: at most the teacher's"),
    "other classes": ({"depth": 8, "num_classes": 7}, r"student\.num_classes: got 7; allowed: 10"),
    "wrong value": ({"depth": 9}, r"student\.depth: got 9"),
    "unknown key": ({"deepness": 8}, r"student\.deepness: got 8"),
    "unknown family": ({"family": "cnnn"}, r"student: got .*'cnnn'"),
    "key of another family": ({"hidden": [4]}, r"student\.hidden: got \[4\]"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_a_student_is_refused(case: str) -> None:
    keys, message = REFUSED[case]
    with pytest.raises(UsageError, match=r"compress\.stages\[1\]\." + message):
        student(teacher(ResNetConfig(family="resnet", depth=8)), keys, index=1)


def test_all_wrong_keys_are_told_at_once() -> None:
    with pytest.raises(UsageError) as error:
        student(teacher(ResNetConfig(family="resnet", depth=8)), {"depth": 9, "width": 0})
    assert "student.depth" in str(error.value)
    assert "student.width" in str(error.value)
