"""When ranges and statistics follow the data in quantization-aware training, and when they do not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.ao.quantization import FakeQuantize

from scaledl.compress.quantize import FreezeAfter
from scaledl.config.schema import ResNetConfig
from scaledl.models.quantized import prepare_qat
from scaledl.models.structure import new_model

pytestmark = pytest.mark.unit


@pytest.fixture
def module() -> nn.Module:
    torch.set_num_threads(1)
    model = new_model(ResNetConfig(family="resnet", depth=8, width=4), (1, 8, 8), 10, seed=0)
    return prepare_qat(model, "x86").module.train()


def at(step: int) -> Any:
    return SimpleNamespace(global_step=step)


def observes(module: nn.Module) -> bool:
    flags = {bool(m.observer_enabled[0]) for m in module.modules() if isinstance(m, FakeQuantize)}
    assert len(flags) == 1
    return flags.pop()


def statistics_follow(module: nn.Module) -> bool:
    before = {k: v.clone() for k, v in module.state_dict().items() if "running_mean" in k}
    module(torch.randn(16, 1, 8, 8) + 1)
    return any(not torch.equal(v, module.state_dict()[k]) for k, v in before.items())


def test_both_freeze_at_the_step_and_not_before(module: nn.Module) -> None:
    callback = FreezeAfter(5)
    callback.on_train_start(at(0), module)
    for step in range(5):
        callback.on_train_batch_start(at(step), module, None, step)
        assert observes(module)
        assert statistics_follow(module)
    callback.on_train_batch_start(at(5), module, None, 5)
    assert not observes(module)
    assert not statistics_follow(module)


def test_validation_is_never_observed(module: nn.Module) -> None:
    callback = FreezeAfter(100)
    callback.on_train_start(at(0), module)
    callback.on_validation_start(at(10), module)
    assert not observes(module)
    callback.on_train_epoch_start(at(10), module)
    assert observes(module)


@pytest.mark.parametrize(("step", "expected"), [(4, True), (5, False), (9, False)])
def test_a_resumed_training_knows_from_its_step(module: nn.Module, step: int, expected: bool) -> None:
    callback = FreezeAfter(5)
    callback.on_validation_start(at(step), module)  # as a checkpoint saved around a validation would have it
    callback.on_train_start(at(step), module)
    assert observes(module) is expected
    assert statistics_follow(module) is expected


def test_frozen_statistics_survive_train_mode_after_validation(module: nn.Module) -> None:
    callback = FreezeAfter(5)
    callback.on_train_start(at(5), module)
    module.eval()
    module.train()
    callback.on_train_epoch_start(at(6), module)
    assert not statistics_follow(module)
