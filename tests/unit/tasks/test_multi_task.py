"""Several heads on one model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scaledl.config import Config, ConfigError, load_config, replace
from scaledl.data import Batch, DataModule
from scaledl.errors import UsageError
from scaledl.runtime.outputs import OutputSpec
from scaledl.tasks.multi_task import MultiTask

pytestmark = pytest.mark.unit

HEADS = {
    "size": {"kind": "numbers", "columns": ["height", "width"], "weight": 2.0},
    "color": {"kind": "class", "columns": ["color"], "classes": 3},
    "marks": {"kind": "labels", "columns": ["dotted", "striped"]},
}
TASK: dict[str, Any] = {"name": "multi_task", "heads": HEADS}
NAMES = ("color", "height", "width", "dotted", "striped")


@pytest.fixture(scope="module")
def things(make_data: Callable[..., DataModule]) -> DataModule:
    x = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    color = (x[:, 0] > -0.5).float() + (x[:, 0] > 0.5).float()
    labels = torch.stack([color, 100 + 10 * x[:, 1], 5 * x[:, 2], (x[:, 3] > 0).float(), (x[:, 4] > 0).float()], 1)
    return make_data(x, labels, NAMES, "numbers")


def test_every_head_learns(train: Callable[..., Any], things: DataModule) -> None:
    trained = train(things, TASK, **{"trainer.epochs": 12})
    assert list(trained.after.metrics) == ["loss", "size_rmse", "color_accuracy", "marks_f1"]
    assert trained.after.headline == "loss"
    assert trained.after.metrics["color_accuracy"] > 0.85
    assert trained.after.metrics["marks_f1"] > 0.85
    assert trained.after.metrics["size_rmse"] < 0.4 * trained.before.metrics["size_rmse"]


def test_the_loss_is_the_weighted_sum(around: Callable[..., Any], things: DataModule) -> None:
    task = around(nn.Identity(), things, TASK)
    output, y = torch.randn(8, 7, generator=torch.Generator().manual_seed(1)), things.train.labels[:8]
    mean, std = torch.tensor(things.spec.target_mean), torch.tensor(things.spec.target_std)
    size = (output[:, :2] - ((y - mean) / std)[:, 1:3]).square().mean()
    color = F.cross_entropy(output[:, 2:5], y[:, 0].long())
    marks = F.binary_cross_entropy_with_logits(output[:, 5:], y[:, 3:])
    loss = task.step(Batch(output, y, torch.arange(8)))["loss"]
    torch.testing.assert_close(loss, 2 * size + color + marks)


def test_targets_that_are_missing_count_for_nothing(around: Callable[..., Any], things: DataModule) -> None:
    task = around(nn.Identity(), things, TASK)
    output, y = torch.randn(4, 7), things.train.labels[:4].clone()
    y[1] = math.nan
    batch = Batch(output, y, torch.arange(4))
    kept = torch.tensor([0, 2, 3])
    rest = Batch(output[kept], y[kept], kept)
    torch.testing.assert_close(task.step(batch)["loss"], task.step(rest)["loss"] * 3 / 4)
    task.check(batch)
    figures = []
    for one in (batch, rest):
        task.on_validation_epoch_start()
        task.validation_step(one, 0)
        figures.append({name: float(value) for name, value in task.evaluated().items() if name != "loss"})
    assert figures[0] == figures[1]


def test_a_file_says_what_its_outputs_are(things: DataModule) -> None:
    made = MultiTask.output_spec(things.spec, replace(Config(), {"task": TASK}).task)
    assert made == OutputSpec.from_dict(made.to_dict())
    assert [(part.name, part.width) for part in made.parts] == [("size", 2), ("color", 3), ("marks", 2)]
    restored = made.restore(torch.zeros(1, 7))[0].tolist()
    assert restored == pytest.approx([*things.spec.target_mean[1:3], 0, 0, 0, 0, 0])


def test_wrong_columns_and_targets_are_named(around: Callable[..., Any], things: DataModule) -> None:
    with pytest.raises(UsageError, match=r"task\.heads\.x\.columns: got 'weight'; allowed: color, height"):
        around(
            nn.Identity(), things, {"name": "multi_task", "heads": {"x": {"kind": "numbers", "columns": ["weight"]}}}
        )
    heads = {"x": {"kind": "class", "columns": ["height"], "classes": 3}}
    task = around(nn.Identity(), things, {"name": "multi_task", "heads": heads})
    with pytest.raises(UsageError, match=r"task\.heads\.x: targets run from .*; allowed: whole numbers from 0 to 2"):
        task.check(Batch(torch.zeros(9, 3), things.train.labels[:9], torch.arange(9)))


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ("{}", "task.heads (command line): got {}; allowed: with task.name=multi_task at least one"),
        ("{a: {kind: class, columns: [x, y]}}", "allowed: one column with kind=class"),
        ("{a: {kind: numbers, columns: [x], classes: 2}}", "no classes with others"),
        ("{a: {kind: numbers, columns: [x]}, b: {kind: labels, columns: [x]}}", "a column of one head only"),
    ],
)
def test_heads_that_contradict_themselves(heads: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["task.name=multi_task", f"task.heads={heads}"])
    assert message in str(caught.value)


def test_heads_are_for_several_tasks_only() -> None:
    with pytest.raises(ConfigError, match="it has no such thing"):
        load_config(None, ["task.heads={a: {kind: numbers, columns: [x]}}"])
    config = load_config(None, ["task.name=multi_task", "task.heads={a: {kind: numbers, columns: [x]}}"])
    assert dict(config.objectives) == {"val_loss": "min"}
    assert config.task.figures == ("loss", "a_rmse")


@pytest.fixture(scope="module")
def named(things: DataModule) -> DataModule:
    """The color has names, and a third of the numbers is missing, everywhere."""
    names = (("blue", "green", "red"), (), (), ("no", "yes"), ())
    splits = {}
    for name in ("train", "val", "test"):
        split = getattr(things, name)
        labels = split.labels.clone()
        labels[::3, 1:3], labels[1::3, 0] = math.nan, math.nan
        splits[name] = dataclasses.replace(split, labels=labels)
    spec = dataclasses.replace(things.spec, target_classes=names, unlabeled=160)
    return DataModule(spec, **splits)


def test_a_class_beside_numbers_where_some_are_missing(train: Callable[..., Any], named: DataModule) -> None:
    heads = {
        "color": {"kind": "class", "columns": ["color"]},
        "size": {"kind": "numbers", "columns": ["height", "width"]},
        "marks": {"kind": "labels", "columns": ["dotted", "striped"]},
    }
    task = {"name": "multi_task", "heads": heads}
    trained = train(named, task, **{"trainer.epochs": 15})
    assert list(trained.after.metrics) == ["loss", "color_accuracy", "size_rmse", "marks_f1"]
    assert trained.after.metrics["color_accuracy"] > 0.8
    assert trained.after.metrics["marks_f1"] > 0.8
    assert trained.after.metrics["size_rmse"] < 0.5 * trained.before.metrics["size_rmse"]
    made = MultiTask.output_spec(named.spec, replace(Config(), {"task": task}).task)
    assert made == OutputSpec.from_dict(made.to_dict())
    assert [part.labels for part in made.parts] == [
        ("blue", "green", "red"),
        ("height", "width"),
        ("dotted", "striped"),
    ]


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (
            {"kind": "class", "columns": ["height"]},
            r"task\.heads\.x\.classes: missing, and column 'height' holds numbers; allowed: how many .*categorical",
        ),
        (
            {"kind": "class", "columns": ["color"], "classes": 4},
            r"task\.heads\.x\.classes: got 4; allowed: 3, as column 'color' has blue, green, red",
        ),
        (
            {"kind": "numbers", "columns": ["height", "color"]},
            r"task\.heads\.x\.columns: got 'color', which is one of the classes blue, .* fix: kind=class",
        ),
        ({"kind": "labels", "columns": ["color"]}, r"allowed with kind=labels: columns of 0 and 1; fix: kind=class"),
    ],
)
def test_heads_fit_their_columns(
    around: Callable[..., Any], named: DataModule, head: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        around(nn.Identity(), named, {"name": "multi_task", "heads": {"x": head}})
