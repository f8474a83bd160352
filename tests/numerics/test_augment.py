"""The batched crop and flip against one sample at a time, in the most obvious way, draws included."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledl.config.schema import AugmentConfig
from scaledl.data import Arrays, BatchLoader, DataSpec
from scaledl.data.augment import BUFFER_LIMIT, CropFlip, draw
from scaledl.data.hashing import CROP_X, CROP_Y, FLIP, hash_key

pytestmark = pytest.mark.numerics

MASK = 2**64 - 1


def splitmix64(seed: int, position: int) -> int:
    """Output number `position` of the published generator, on Python's integers."""
    z = (seed + (position + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def one_draw(bound: int, sample: int, seed: int, epoch: int, operation: int) -> int:
    return ((splitmix64(hash_key(seed, epoch, operation), sample) >> 32) * bound) >> 32


def one_sample(image: np.ndarray, sample: int, augment: AugmentConfig, seed: int, epoch: int) -> np.ndarray:
    """[H, W, C] -> [H, W, C]: mirror, pad with black, crop."""
    if one_draw(1 + augment.flip, sample, seed, epoch, FLIP):
        image = image[:, ::-1]
    pad, (height, width, _) = augment.crop, image.shape
    y, x = (one_draw(2 * pad + 1, sample, seed, epoch, operation) for operation in (CROP_Y, CROP_X))
    return np.pad(image, ((pad, pad), (pad, pad), (0, 0)))[y : y + height, x : x + width]


@settings(deadline=None, max_examples=150)
@given(data=st.data(), channels=st.sampled_from([1, 3]), fits=st.booleans())
def test_batched_pixels_equal_the_samples_one_by_one(data: st.DataObject, channels: int, fits: bool) -> None:
    count, height, width, crop = (data.draw(st.integers(low, high)) for low, high in ((1, 6), (1, 9), (1, 9), (0, 5)))
    seed, epoch = data.draw(st.integers(0, 2**31 - 1)), data.draw(st.integers(0, 1000))
    augment = AugmentConfig(crop=crop, flip=data.draw(st.booleans()))
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    index = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=8))
    ids = rng.integers(0, 2**40, count)[index]
    fast = CropFlip(torch.from_numpy(images), augment, seed, BUFFER_LIMIT if fits else 0)
    result = fast(torch.tensor(index), torch.from_numpy(ids), epoch)
    for row, position, sample in zip(result, index, ids.tolist(), strict=True):
        expected = one_sample(images[position], sample, augment, seed, epoch)
        assert np.array_equal(row.reshape(height, width, channels).numpy(), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_augmented_batch_is_normalised_after_padding(channels: int) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 28, 28, channels), dtype=np.uint8)
    augment = AugmentConfig(crop=2, flip=True)
    mean, std = (0.2, 0.4, 0.5)[:channels], (0.3, 0.25, 0.2)[:channels]
    spec = DataSpec("test", (channels, 28, 28), ("a", "b"), mean, std, "")
    arrays = Arrays(torch.from_numpy(images), torch.zeros(40, dtype=torch.int64), torch.arange(40))
    loader = BatchLoader(arrays, spec, 16, shuffle=True, augment=augment, seed=9)
    loader.set_epoch(2)
    for batch in loader:
        for x, sample in zip(batch.x, batch.ids.tolist(), strict=True):
            pixels = one_sample(images[sample], sample, augment, 9, 2).astype(np.float32)
            expected = (pixels / np.float32(255) - np.float32(mean)) / np.float32(std)
            assert np.array_equal(x.permute(1, 2, 0).numpy(), expected)


def test_every_offset_and_both_sides_come_up_equally_often() -> None:
    augment = AugmentConfig(crop=2, flip=True)
    draws = draw(torch.arange(50_000), augment, seed=0, epoch=0)
    cells = (draws.mirror * 5 + draws.y) * 5 + draws.x
    counts = torch.bincount(cells, minlength=50).double()
    # Five standard deviations around 1,000 for each of the 2 x 5 x 5 outcomes.
    assert (counts - 1000).abs().max() <= 5 * (1000 * (1 - 1 / 50)) ** 0.5


def test_draws_change_with_seed_and_epoch_alone() -> None:
    augment, ids = AugmentConfig(crop=4, flip=True), torch.arange(1000)

    def drawn(seed: int, epoch: int) -> torch.Tensor:
        return torch.stack(draw(ids, augment, seed, epoch))

    assert torch.equal(drawn(1, 2), drawn(1, 2))
    for other in (drawn(2, 1), drawn(1, 3), drawn(2, 2)):
        assert (drawn(1, 2) != other).double().mean() > 0.5
    part = torch.tensor([7, 900, 3])
    assert torch.equal(torch.stack(draw(part, augment, 1, 2)), drawn(1, 2)[:, part])
