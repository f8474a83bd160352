"""Parts of images, resized to the whole."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from scaledl.config.schema import AugmentConfig
from scaledl.data.augment import build_pixels_fn
from scaledl.data.augment.resized_crop import RATIOS, draw_resized_crop, resized_crop

pytestmark = pytest.mark.unit


def pictures(count: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator).float()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000))
def test_a_part_becomes_what_torchvision_makes_of_it(height: int, width: int, epoch: int) -> None:
    x = pictures(6, height, width)
    drawn = draw_resized_crop(torch.arange(6), (0.08, 1.0), 3, epoch, height, width)
    found = resized_crop(x, *drawn)
    for image, result, top, left, high, wide in zip(x, found, *(values.tolist() for values in drawn), strict=True):
        assert 0 <= top < top + high <= height
        assert 0 <= left < left + wide <= width
        expected = F.resized_crop(image, top, left, high, wide, [height, width], antialias=False)
        assert torch.allclose(result, expected, atol=1e-3)


def test_the_whole_image_stays_as_it_is() -> None:
    x, size = pictures(3, 7, 9), torch.tensor
    whole = resized_crop(x, size([0] * 3), size([0] * 3), size([7] * 3), size([9] * 3))
    assert torch.equal(whole, x)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 50), (64, 9)])
def test_parts_are_drawn_as_torchvision_draws_them(height: int, width: int) -> None:
    torch.manual_seed(0)
    image = torch.zeros(1, height, width)
    theirs = torch.tensor(
        [v2.RandomResizedCrop.get_params(image, [0.08, 1.0], list(RATIOS)) for _ in range(4000)]
        if hasattr(v2.RandomResizedCrop, "get_params")
        else [tuple(v2.RandomResizedCrop(8).make_params([image]).values())[:4] for _ in range(4000)]
    ).double()
    ours = torch.stack(draw_resized_crop(torch.arange(4000), (0.08, 1.0), 1, 2, height, width), 1).double()
    for own, other in zip(ours.unbind(1), theirs.unbind(1), strict=True):
        assert own.mean().item() == pytest.approx(other.mean().item(), abs=0.03 * max(height, width))
        assert own.std().item() == pytest.approx(other.std().item(), abs=0.03 * max(height, width))


def test_in_the_config_it_depends_on_the_sample_alone() -> None:
    images = torch.randint(0, 256, (9, 12, 10, 3), dtype=torch.uint8)
    pixels_fn = build_pixels_fn(images, AugmentConfig(resized_crop=(0.2, 0.9), flip=True), seed=4)
    ids = torch.arange(9) + 50
    whole = pixels_fn(torch.arange(9), ids, 3)
    alone = torch.cat([pixels_fn(torch.tensor([row]), ids[row : row + 1], 3) for row in range(9)])
    assert torch.equal(whole, alone)
    assert whole.reshape(9, 12, 10, 3).shape == images.shape
    assert not torch.equal(whole, pixels_fn(torch.arange(9), ids, 4))
