"""Backward passes without the weights of the forward pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from scaledl.distributed.saved import SavedWeights

pytestmark = pytest.mark.unit


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8)),
        *(nn.LayerNorm(8), nn.Linear(8, 3, bias=False)),
    )


def gradients(module: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]


def test_gradients_are_the_same_with_weights_that_moved_meanwhile() -> None:
    x = torch.rand(5, 1, 4, 4)
    plain, moved = network(), network()
    plain(x).square().sum().backward()
    saved = SavedWeights(moved)
    with saved.left_out():
        loss = moved(x).square().sum()
    for parameter in moved.parameters():
        parameter.data = parameter.data.clone()  # as DeepSpeed does when it gathers a weight again
    loss.backward()
    assert all(torch.equal(a, b) for a, b in zip(gradients(plain), gradients(moved), strict=True))


def test_autograd_keeps_no_weight_alive() -> None:
    module = network()
    saved = SavedWeights(module)
    with saved.left_out():
        loss = module(torch.rand(5, 1, 4, 4)).sum()
    for parameter in module.parameters():
        parameter.data = torch.empty(0)
    with pytest.raises(AttributeError, match="all_gather"):
        loss.backward()  # it asks for the weights, and does not have them


def test_activations_are_kept_as_ever() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    saved = SavedWeights(module)
    x = torch.rand(4, 4)
    with saved.left_out():
        loss = module(x).sum()
    torch.rand(4, 4), torch.rand(4, 4)  # would lie where a freed activation lay
    loss.backward()
    expected = torch.autograd.grad(module(x).sum(), list(module.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(gradients(module), expected, strict=True))
