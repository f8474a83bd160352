"""The U-Net: what it sees, that any size comes out as it went in, and its levels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scaledl.config.schema import UNetConfig
from scaledl.models.structure import new_model
from scaledl.models.unet import Level
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def make(size: tuple[int, int], *, width: int = 2, depth: int = 2) -> nn.Module:
    config = UNetConfig(family="unet", width=width, depth=depth)
    return new_model(config, Inputs("image", (1, *size)), Outputs(3, "pixels"), seed=0).module.eval()


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 9), (13, 4)])
def test_maps_are_as_large_as_images(size: tuple[int, int]) -> None:
    assert make(size)(torch.randn(2, 1, *size)).shape == (2, 3, *size)


def test_padding_changes_nothing_but_the_border() -> None:
    """An image that needs padding gives what the padded image gives, cut."""
    whole, cut = make((8, 8)), make((7, 6))
    cut.load_state_dict(whole.state_dict())
    x = torch.randn(2, 1, 7, 6)
    padded = nn.functional.pad(x, (0, 2, 0, 1))
    torch.testing.assert_close(cut(x), whole(padded)[:, :, :7, :6])


def test_channels_double_with_each_halving() -> None:
    module = make((16, 16), width=4, depth=3)
    levels = [layer for layer in module.modules() if isinstance(layer, Level)]
    assert [level.down[0].out_channels for level in levels] == [4, 8, 16]
    assert levels[-1].below[0].out_channels == 32
    assert [level.up[0].in_channels for level in levels] == [8, 16, 32]


def test_details_go_across_and_do_not_have_to_go_down() -> None:
    """With nothing from below, the maps still depend on every pixel's neighbourhood alone."""
    module = make((16, 16), depth=1)
    nn.init.zeros_(module.body.grow[1].weight)
    x = torch.randn(1, 1, 16, 16, requires_grad=True)
    module(x)[0, 0, 8, 8].backward()
    seen = x.grad[0, 0].nonzero()
    assert seen.min() >= 4
    assert seen.max() <= 12
