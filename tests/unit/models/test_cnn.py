"""The plain CNN: its sizes, and what its keys change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from scaledl.config.schema import CNNConfig
from scaledl.models.structure import new_model
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def make(inputs: Inputs = Inputs("image", (1, 28, 28)), **keys: Any) -> nn.Module:  # noqa: B008
    return new_model(CNNConfig(family="cnn", **keys), inputs, Outputs(10), seed=0).module


def test_with_lenets_sizes_it_has_lenets_parameters() -> None:
    """LeNet-5 as it is drawn today: valid 5x5 convolutions become padded ones, so its input is 16x16 for 5x5 maps."""
    module = make(Inputs("image", (1, 20, 20)), channels=[6, 16], kernel_size=5, norm="none", hidden=[120, 84])
    convolutions = (1 * 25 * 6 + 6) + (6 * 25 * 16 + 16)
    dense = (16 * 5 * 5 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)
    assert sum(p.numel() for p in module.parameters()) == convolutions + dense == 61_706


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 2), (2, 40, 3)])
@pytest.mark.parametrize("pool", ["max", "avg", "none"])
def test_any_size_of_image_runs(shape: tuple[int, int, int], pool: Any) -> None:
    module = make(Inputs("image", shape), channels=[4, 4, 4], hidden=[8], pool=pool).eval()
    assert module(torch.randn(2, *shape)).shape == (2, 10)


def test_without_norm_it_is_the_textbook_formula() -> None:
    module = make(Inputs("series", (2, 8)), channels=[4], norm="none", hidden=[6], activation="tanh").eval()
    x = torch.randn(3, 2, 8)
    conv_w, conv_b, dense_w, dense_b, head_w, head_b = module.parameters()
    maps = torch.tanh(nn.functional.conv1d(x, conv_w, conv_b, padding=1))
    pooled = maps.reshape(3, 4, 4, 2).amax(-1).flatten(1)
    expected = torch.tanh(pooled @ dense_w.T + dense_b) @ head_w.T + head_b
    torch.testing.assert_close(module(x), expected)


def test_mean_features_do_not_depend_on_the_number_of_steps() -> None:
    module = make(Inputs("series", (2, 16)), channels=[4], hidden=[], pool="none", features="mean").eval()
    x = torch.randn(3, 2, 1).expand(-1, -1, 64)
    inner = module.stages[0](x)[..., 2:-2]
    torch.testing.assert_close(inner, inner[..., :1].expand_as(inner))
    assert module.head.in_features == 4


NORMS = {"batch": (nn.BatchNorm2d, 0), "group": (nn.GroupNorm, 4), "layer": (nn.GroupNorm, 1)}


@pytest.mark.parametrize("norm", NORMS)
def test_norms(norm: Any) -> None:
    kind, groups = NORMS[norm]
    layers = [layer for layer in make(channels=[12, 12], norm=norm).modules() if isinstance(layer, kind)]
    assert len(layers) == 2
    assert all(getattr(layer, "num_groups", groups) == (groups if norm != "group" else 6) for layer in layers)
    convolutions = [layer for layer in make(norm=norm).modules() if isinstance(layer, nn.Conv2d)]
    assert all(layer.bias is None for layer in convolutions)
