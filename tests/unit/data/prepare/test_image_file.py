"""Images in a file that becomes the array of some of them where it lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaledl.data.prepare.image_file import ImageFile, settled
from scaledl.errors import UsageError
from scaledl.run.files import sha256_file

pytestmark = pytest.mark.unit


def written(path: Path, pixels: np.ndarray) -> ImageFile:
    file = ImageFile(path, len(pixels), pixels.shape[1:])
    with file.writing():
        for start in range(len(pixels) - 2, -2, -2):  # in any order
            file.write(max(start, 0), pixels[max(start, 0) : start + 2])
    return file


@given(st.sets(st.integers(0, 60), min_size=1))
def test_few_are_moved(numbers: set[int]) -> None:
    order = settled(np.array(sorted(numbers)))
    assert set(order.tolist()) == numbers
    moved = order != np.arange(len(order))
    assert moved.sum() == sum(number >= len(numbers) for number in numbers)
    assert (np.diff(order[moved]) > 0).all()


@given(st.sets(st.integers(0, 12), min_size=1), st.integers(0, 30))
def test_settling_goes_on_wherever_it_was_interrupted(
    tmp_path_factory: pytest.TempPathFactory, numbers: set[int], calls: int
) -> None:
    folder = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 256, (13, 4, 5, 3), np.uint8)
    order = settled(np.array(sorted(numbers)))
    file = written(folder / "work.npy", pixels)
    left = iter(range(calls))

    class Stops(ImageFile):
        def _write(self, offset: int, data: memoryview | bytes) -> None:
            if next(left, None) is None:
                super()._write(offset, data[: len(data) // 2])
                raise KeyboardInterrupt
            super()._write(offset, data)

    try:
        Stops(folder / "work.npy", 13, (4, 5, 3)).settle(order, folder / "whole.npy")
    except KeyboardInterrupt:
        assert not (folder / "whole.npy").exists()
    assert file.settle(order, folder / "whole.npy") == sha256_file(folder / "whole.npy")
    assert np.array_equal(np.load(folder / "whole.npy"), pixels[order])
    assert np.array_equal(file.gather(np.arange(len(order)), 1), pixels[order][..., :1])
    assert not (folder / "work.npy").exists()


def test_a_file_cut_short_by_others(tmp_path: Path) -> None:
    file = written(tmp_path / "work.npy", np.zeros((5, 2, 2, 3), np.uint8))
    assert file.holds(5)
    (tmp_path / "work.npy").write_bytes((tmp_path / "work.npy").read_bytes()[:-1])
    assert not file.holds(5)
    assert file.holds(4)
    with pytest.raises(UsageError, match="cut short"):
        file.gather(np.array([4]), 3)


def test_large_images_are_copied_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaledl.data.prepare.image_file._BLOCK_BYTES", 100)
    pixels = np.random.default_rng(1).integers(0, 256, (40, 3, 3, 3), np.uint8)
    found = written(tmp_path / "work.npy", pixels).copy(np.array([3, 1, *range(10, 39)]), 1, tmp_path / "copy.npy")
    assert found == sha256_file(tmp_path / "copy.npy")
    assert np.array_equal(np.load(tmp_path / "copy.npy"), pixels[[3, 1, *range(10, 39)], ..., :1])
