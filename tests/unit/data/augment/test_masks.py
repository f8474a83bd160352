"""Masks go where their images go."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from scaledl.config.schema import AugmentConfig
from scaledl.data import Arrays, BatchLoader, DataSpec
from scaledl.data.arrays import IGNORED
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

SIDE, BLOCK = 32, 16


def pictures(count: int) -> tuple[Tensor, Tensor]:
    """Images whose pixels say their class: 40, 140 and 240 for 0, 1 and 2; in blocks, so that edges are few."""
    generator = torch.Generator().manual_seed(1)
    blocks = torch.randint(0, 3, (count, SIDE // BLOCK, SIDE // BLOCK), generator=generator)
    masks = blocks.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)
    return (masks * 100 + 40).to(torch.uint8).unsqueeze(-1), masks.to(torch.int16)


def loader(augment: AugmentConfig, count: int = 64, batch_size: int = 64, **options: Any) -> BatchLoader:
    images, masks = pictures(count)
    spec = DataSpec("test", (1, SIDE, SIDE), ("a", "b", "c"), (0.0,), (1 / 255,), "", target="mask")
    return BatchLoader(Arrays(images, masks, torch.arange(count)), spec, batch_size, augment=augment, seed=5, **options)


@pytest.mark.parametrize(
    ("augment", "blurred"),
    [
        ({"crop": 3}, 0.0),
        ({"flip": True}, 0.0),
        ({"crop": 2, "flip": True}, 0.0),
        ({"resized_crop": [0.3, 1.0]}, 0.15),
        ({"rotation": 40, "translation": 0.2, "scale": [0.7, 1.4], "shear": 20}, 0.25),
        ({"crop": 2, "flip": True, "resized_crop": [0.5, 1.0], "rotation": 20}, 0.3),
    ],
)
def test_a_pixel_and_its_class_move_together(augment: dict[str, Any], blurred: float) -> None:
    batch = next(iter(loader(AugmentConfig.model_validate(augment))))
    pixels = batch.x.squeeze(1).round()
    assert batch.y.dtype == torch.int64
    assert batch.y.shape == pixels.shape
    expected = torch.where(batch.y == IGNORED, 0, batch.y * 100 + 40).float()
    assert (pixels != expected).double().mean() <= blurred, "between two classes pixels are mixed, and at edges"
    unclear = (pixels - expected).abs() > 60
    assert unclear.double().mean() < 0.05
    images, masks = pictures(64)
    assert (batch.y != masks.long()).any()
    assert (batch.x.squeeze(1) != images.squeeze(-1).float()).any()


def test_colours_leave_masks_where_they_are() -> None:
    batch = next(iter(loader(AugmentConfig(brightness=0.5, noise=0.1, cutout=0.3))))
    assert torch.equal(batch.y, pictures(64)[1].long())


def test_masks_depend_on_neither_batch_nor_rank() -> None:
    augment = AugmentConfig(crop=2, flip=True, rotation=30)
    whole = next(iter(loader(augment)))
    parts = [batch for rank in range(2) for batch in loader(augment, batch_size=10, rank=rank, world_size=2)]
    ids = torch.cat([batch.ids for batch in parts])
    masks = torch.cat([batch.y for batch in parts])
    assert torch.equal(masks[ids.argsort()], whole.y)


@pytest.mark.parametrize("key", ["mixup", "cutmix", "policy"])
def test_what_would_leave_masks_behind_is_refused(key: str) -> None:
    augment = AugmentConfig.model_validate({key: "randaugment" if key == "policy" else 0.2})
    with pytest.raises(UsageError, match=rf"data\.augment\.{key}: is on, .* of target mask, which it does not go with"):
        loader(augment)
