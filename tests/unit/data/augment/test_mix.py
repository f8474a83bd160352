"""Mixup and CutMix: partners, pixels, and labels that say what is in the picture."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledl.config.schema import AugmentConfig
from scaledl.data import Arrays, BatchLoader, DataSpec
from scaledl.data.augment import Mix, build_pixels_fn
from scaledl.data.augment.mix import cut_box

pytestmark = pytest.mark.unit

SPEC = DataSpec("test", (1, 8, 10), ("a", "b", "c"), (0.0,), (1.0,), "")


def levels(size: int) -> Arrays:
    """Image `i` has the level 2 * i throughout, class i % 3 and id 1000 - i."""
    images = (torch.arange(size) * 2).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 8, 10, 1).contiguous()
    return Arrays(images, torch.arange(size) % 3, 1000 - torch.arange(size))


def make_mix(arrays: Arrays, seed: int = 0, **section: float) -> Mix:
    augment = AugmentConfig(**section)
    return Mix(arrays, build_pixels_fn(arrays.inputs, augment, seed), augment, 3, seed)


def one_hot(arrays: Arrays, rows: torch.Tensor) -> torch.Tensor:
    return torch.eye(3)[arrays.labels[rows]]


def test_mixup_is_the_weighted_sum_of_pixels_and_labels() -> None:
    arrays, rows = levels(100), torch.arange(0, 100, 3)
    mix = make_mix(arrays, mixup=0.5)
    pixels, shares = mix(rows, arrays.ids[rows], 2)
    draws = mix.draw(arrays.ids[rows], 2)
    weight = draws.mixup_weight.float().unsqueeze(1)
    expected = weight[:, 0] * rows * 2 + (1 - weight[:, 0]) * draws.partner * 2
    assert pixels.shape == (len(rows), 8, 10, 1)
    torch.testing.assert_close(pixels, expected.view(-1, 1, 1, 1).expand_as(pixels))
    torch.testing.assert_close(shares, weight * one_hot(arrays, rows) + (1 - weight) * one_hot(arrays, draws.partner))
    assert shares.dtype == torch.float32


def test_cutmix_pastes_a_box_and_labels_count_its_pixels() -> None:
    arrays, rows = levels(100), torch.arange(100)
    mix = make_mix(arrays, cutmix=1.0)
    pixels, shares = mix(rows, arrays.ids, 2)
    draws = mix.draw(arrays.ids, 2)
    for row, (image, partner) in enumerate(zip(pixels[..., 0], draws.partner.tolist(), strict=True)):
        pasted = image == partner * 2
        assert (pasted | (image == row * 2)).all()
        if partner == row:
            continue
        inside_rows, inside_columns = pasted.any(1), pasted.any(0)
        assert pasted.sum() == inside_rows.sum() * inside_columns.sum(), "a rectangle"
        kept = 1 - pasted.float().mean()
        expected = kept * one_hot(arrays, torch.tensor(row)) + (1 - kept) * one_hot(arrays, torch.tensor(partner))
        torch.testing.assert_close(shares[row], expected)


def test_with_both_each_sample_is_mixed_or_cut() -> None:
    arrays = levels(100)
    pixels, shares = make_mix(arrays, mixup=1.0, cutmix=1.0)(torch.arange(100), arrays.ids, 0)
    kinds = [len(image.unique()) for image in pixels]
    assert kinds.count(2) > 25
    assert sum(bool((image != image.round()).all()) for image in pixels) > 25
    torch.testing.assert_close(shares.sum(1), torch.ones(100))


def test_the_partner_is_as_it_is_in_this_epoch_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (30, 8, 10, 1), dtype=torch.uint8, generator=generator)
    arrays = Arrays(images, torch.arange(30) % 3, torch.arange(30) + 7)
    section = {"crop": 2, "flip": True, "policy": "trivialaugment"}
    alone = build_pixels_fn(images, AugmentConfig(**section), 5)(torch.arange(30), arrays.ids, 3).float()
    mix = make_mix(arrays, 5, mixup=1.0, **section)
    weight = (draws := mix.draw(arrays.ids, 3)).mixup_weight.float().view(-1, 1, 1, 1)
    pixels, _ = mix(torch.arange(30), arrays.ids, 3)
    torch.testing.assert_close(pixels, alone * weight + alone[draws.partner] * (1 - weight))


@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 20), alpha=st.floats(0.01, 100), cut=st.floats(0.01, 100), seed=st.integers(0, 2**31 - 1))
def test_shares_sum_to_one_and_boxes_lie_in_the_image(size: int, alpha: float, cut: float, seed: int) -> None:
    arrays = levels(size)
    mix = make_mix(arrays, seed, mixup=alpha, cutmix=cut)
    draws = mix.draw(arrays.ids, 0)
    assert ((draws.partner >= 0) & (draws.partner < size)).all()
    top, left, bottom, right = cut_box(draws, 8, 10)
    assert ((top >= 0) & (top <= bottom) & (bottom <= 8) & (left >= 0) & (left <= right) & (right <= 10)).all()
    pixels, shares = mix(torch.arange(size), arrays.ids, 0)
    assert torch.isfinite(pixels).all()
    torch.testing.assert_close(shares.sum(1), torch.ones(size))
    assert shares.min() >= 0


def test_a_row_that_counts_for_nothing_has_soft_targets_too() -> None:
    loader = BatchLoader(levels(4), SPEC, 1, augment=AugmentConfig(mixup=0.2), rank=0, world_size=2)
    batch = next(iter(loader))
    assert (batch.x.shape[0], batch.y.shape, len(batch.ids)) == (1, (1, 3), 0)
