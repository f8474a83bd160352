"""Which images are copies of others, against a comparison of all pairs."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaledl.data.prepare.chunks import Decoded
from scaledl.data.prepare.clean import near_copies
from scaledl.data.prepare.images import image_hashes
from scaledl.data.prepare.items import Item

pytestmark = pytest.mark.unit


def alike(one: np.ndarray, other: np.ndarray, distance: int) -> bool:
    bits = (np.unpackbits(image_hashes(one[None])) != np.unpackbits(image_hashes(other[None]))).sum()
    return bool(bits <= distance and np.abs(one.astype(int) - other).mean() <= 4)


@given(st.integers(0, 2**32 - 1), st.integers(0, 47))
def test_near_copies_are_those_of_all_pairs(seed: int, distance: int) -> None:
    rng = np.random.default_rng(seed)
    thumbnails = rng.integers(0, 256, (4, 256), np.uint8)[rng.integers(0, 4, 24)]
    for row in thumbnails:
        changed = rng.choice(256, rng.integers(0, 16), replace=False)
        row[changed] = rng.integers(0, 256, len(changed))
    digests = rng.integers(0, 256, (24, 32), np.uint8)
    decoded = Decoded(np.arange(24), digests, thumbnails, np.ones((24, 3), np.int64), [])
    items = [Item(str(number), "a", "", Path()) for number in range(24)]
    members = np.sort(rng.choice(24, 20, replace=False))
    pairs = combinations(members.tolist(), 2)
    expected = [(one, other) for one, other in pairs if alike(thumbnails[one], thumbnails[other], distance)]
    assert near_copies(items, decoded, members, distance) == expected
