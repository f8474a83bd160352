"""Modules built without values, and filled."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scaledl.config.schema import MLPConfig, ResNetConfig
from scaledl.models.blank import blank_parameters, fill, filled
from scaledl.models.structure import Structure, build, new_model
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.unit

CONFIGS = [MLPConfig(family="mlp", hidden=[8, 8]), ResNetConfig(family="resnet", depth=8, width=4)]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.family)
def test_a_blank_model_that_is_filled_is_the_model(config: MLPConfig | ResNetConfig) -> None:
    model = new_model(config, (1, 28, 28), 10, 3)
    with blank_parameters():
        blank = build(model.structure)
    assert all(parameter.is_meta for parameter in blank.parameters())
    state = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    module = filled(blank, state)
    assert not any(parameter.is_meta for parameter in module.parameters())
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(module.eval()(x), model.module.eval()(x))
    for name, parameter in module.named_parameters():
        assert parameter.data_ptr() == state[name].data_ptr(), "the tensor itself, not a copy"
        assert parameter.requires_grad


def test_buffers_have_values_from_the_start() -> None:
    with blank_parameters():
        norm = nn.BatchNorm1d(3)
    assert norm.weight.is_meta
    assert torch.equal(norm.running_var, torch.ones(3))


def test_shared_parameters_stay_shared() -> None:
    with blank_parameters():
        pair = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        pair[1].weight = pair[0].weight
    [weight, *_] = pair.parameters()
    fill(pair, weight, torch.ones(2, 2))
    assert pair[0].weight is pair[1].weight
    assert not pair[1].weight.is_meta


def test_frozen_parameters_stay_frozen() -> None:
    with blank_parameters():
        layer = nn.Linear(2, 2)
        layer.weight.requires_grad_(False)
    assert not fill(layer, layer.weight, torch.ones(2, 2)).requires_grad
    assert layer.bias.requires_grad


def test_outside_modules_are_as_ever() -> None:
    with pytest.raises(ZeroDivisionError), blank_parameters():
        raise ZeroDivisionError
    assert not nn.Linear(2, 2).weight.is_meta


def test_a_structure_that_was_pruned_can_be_built_blank() -> None:
    structure = Structure(
        "mlp", MLPConfig(family="mlp", hidden=[8]).model_dump(mode="json"), Inputs.of((1, 4, 4)), Outputs(10)
    )
    from scaledl.models.structure import resize_change

    smaller = build(structure)
    smaller.hidden[0] = nn.Linear(16, 5)  # type: ignore[index, operator]
    smaller.head = nn.Linear(5, 10)
    pruned = structure.then(resize_change(structure, smaller))
    with blank_parameters():
        blank = build(pruned)
    module = filled(blank, dict(smaller.state_dict()))
    x = torch.rand(2, 1, 4, 4)
    assert torch.equal(module(x), smaller(x))
