"""Pruning without the fine-tuning: what goes, what never goes, what is said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from scaledl.compress.prune import TAYLOR_BATCHES, accumulate_gradients_, classifier, prune_model
from scaledl.config.schema import Config, MLPConfig, PruneConfig, ResNetConfig
from scaledl.data import Batch, DataSpec
from scaledl.errors import UsageError
from scaledl.models.structure import Model, new_model
from scaledl.tasks.base import Task
from scaledl.tasks.model import task_around

pytestmark = pytest.mark.unit

IN_SHAPE = (1, 8, 8)
RESNET = ResNetConfig(family="resnet", depth=8, width=16)
MLP = MLPConfig(family="mlp", hidden=[32, 16])


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make(config: Any = RESNET) -> Model:
    return new_model(config, IN_SHAPE, 10, seed=0)


def batches() -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(0)
    while True:
        y = torch.randint(0, 10, (16,), generator=generator)
        yield Batch(torch.randn(16, *IN_SHAPE, generator=generator), y, torch.arange(16))


def task_of(module: nn.Module) -> Task:
    spec = DataSpec("made-up", IN_SHAPE, tuple(map(str, range(10))), (0.0,), (1.0,), "0")
    return task_around(module, Config(), spec)


def count(model: Model) -> int:
    return sum(p.numel() for p in model.module.parameters())


@pytest.mark.parametrize("importance", ["magnitude", "taylor", "bn_scale"])
@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_half_the_channels_leave_a_quarter_of_the_weights(importance: Any, scope: Any) -> None:
    model = make()
    stage = PruneConfig(importance=importance, scope=scope, round_to=4)
    small = prune_model(model, stage, batches(), task_fn=task_of)
    assert 0.15 < count(small) / count(model) < 0.35
    assert small.module(torch.zeros(2, *IN_SHAPE)).shape == (2, 10)
    assert small.structure.history[-1]["op"] == "resize"
    for layer in small.module.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.out_channels % 4 == 0


def test_the_model_that_is_pruned_stays_as_it_was() -> None:
    model = make()
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    prune_model(model, PruneConfig(importance="taylor"), batches(), task_fn=task_of)
    assert model.structure.history == ()
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
    assert all(p.grad is None for p in model.module.parameters())


def test_the_classifier_is_found_whatever_its_name() -> None:
    module = make().module
    assert classifier(module, torch.zeros(1, *IN_SHAPE)) is module.head


def test_the_classifier_and_the_input_keep_their_size() -> None:
    module = prune_model(make(), PruneConfig(ratio=0.9, round_to=1), iter(())).module
    assert module.head.out_features == 10
    assert module.stem[0].in_channels == 1


def test_small_layers_that_stay_whole_are_reported(capfd: pytest.CaptureFixture[str]) -> None:
    prune_model(make(MLP), PruneConfig(round_to=16), iter(()))
    out = capfd.readouterr()
    assert "pruned 1 of 2 groups of layers" in out.out + out.err
    assert "1 stay whole" in out.out + out.err


def test_two_prunings_in_a_row_do_not_influence_each_other() -> None:
    first = prune_model(make(), PruneConfig(), iter(()))
    prune_model(make(MLP), PruneConfig(), iter(()))
    again = prune_model(make(), PruneConfig(), iter(()))
    assert first.structure == again.structure
    pairs = zip(first.module.state_dict().values(), again.module.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


NOTHING = {
    "too small": (RESNET, PruneConfig(round_to=64), "lower round_to or raise ratio"),
    "tiny ratio": (RESNET, PruneConfig(ratio=0.001), "lower round_to or raise ratio"),
    "no BatchNorm": (MLP, PruneConfig(importance="bn_scale"), "'bn_scale' needs BatchNorm layers"),
    "no layer": (MLPConfig(family="mlp", hidden=[]), PruneConfig(), "no layer besides the classifier"),
}


@pytest.mark.parametrize("case", NOTHING)
def test_nothing_to_remove_is_an_error_that_says_why(case: str) -> None:
    config, stage, message = NOTHING[case]
    with pytest.raises(UsageError, match=rf"compress\.stages\[1\]: nothing can be removed: .*{message}"):
        prune_model(make(config), stage, iter(()), key="compress.stages[1]")


def test_taylor_reads_a_few_batches_and_leaves_statistics_alone() -> None:
    module = make().module.eval()
    source, used = batches(), []
    statistics = {k: v.clone() for k, v in module.state_dict().items()}
    accumulate_gradients_(task_of(module), (used.append(1) or batch for batch in source))
    assert len(used) in (TAYLOR_BATCHES, TAYLOR_BATCHES + 1)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    assert all(torch.equal(v, statistics[k]) for k, v in module.state_dict().items())


def test_dead_weights_do_not_confuse_the_ranking() -> None:
    model = make(MLP)
    with torch.no_grad():
        model.module.hidden[0].weight.zero_()
        model.module.hidden[2].weight.zero_()
        model.module.head.weight.zero_()
    small = prune_model(model, PruneConfig(), iter(()))
    assert small.module.hidden[0].out_features == 16
