"""What is searched where a config names nothing."""

from __future__ import annotations

import pytest

from scaledl.config import load_config, replace
from scaledl.config.registry import OPTIMIZERS
from scaledl.config.traits import TRAITS
from scaledl.tune.default import default_space

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", TRAITS)
def test_a_space_that_the_task_can_have(name: str) -> None:
    heads = ["task.heads={a: {kind: numbers, columns: [x]}}"] if name == "multi_task" else []
    config = load_config(None, [f"task.name={name}", *heads])
    space = default_space(config)
    assert {"optimizer.lr", "optimizer.weight_decay", "data.batch_size"} <= space.keys()
    assert ("task.label_smoothing" in space) == ("label_smoothing" in (TRAITS[name].keys or ()))
    assert replace(config, {"tune.space": space}).tune.space == space


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_a_space_that_the_optimizer_can_have(name: str) -> None:
    config = load_config(None, [f"optimizer.name={name}"])
    space = default_space(config)
    strength = "optimizer.l2" if name in ("ftrl", "adagrad_da") else "optimizer.weight_decay"
    assert strength in space
    config = replace(config, {"tune.space": space})
    assert replace(config, {strength: 0.1}).optimizer.name == name


@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "my.losses:mine"])
def test_a_space_that_the_loss_can_have(loss: str) -> None:
    config = load_config(None, [f"task.loss={loss}"])
    assert ("task.label_smoothing" in default_space(config)) == (loss != "my.losses:mine")
