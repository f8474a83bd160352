"""What is counted of images before they become a data set."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from scaledl.data.prepare.images import Pixels
from scaledl.data.prepare.store import histogram

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("side", "channels"), [(5, 1), (40, 3), (1500, 3)])
def test_few_large_images_are_in_memory_at_a_time(side: int, channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, side, side, channels), np.uint8)
    most = 0

    def gather(rows: NDArray[np.int64]) -> Pixels:
        nonlocal most
        most = max(most, images[rows].nbytes)
        return images[rows]

    found = histogram(len(images), gather)
    expected = [np.bincount(images[..., channel].ravel(), minlength=256) for channel in range(channels)]
    assert np.array_equal(found, np.stack(expected, axis=1))
    assert most <= 16 << 20
