import gzip
import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledl.data.idx import find_idx, read_idx
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit


def idx_bytes(values: torch.Tensor) -> bytes:
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return header + values.numpy().tobytes()


IMAGES = torch.arange(2 * 3 * 4, dtype=torch.uint8).view(2, 3, 4)
GOOD = idx_bytes(IMAGES)


def write(folder: Path, content: bytes, suffix: str = "") -> Path:
    path = folder / f"images{suffix}"
    path.write_bytes(gzip.compress(content, mtime=0) if suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_plain_and_gzipped_files_give_the_same(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, GOOD, suffix)
    values = read_idx(path, 3, hashlib.sha256(GOOD).hexdigest())
    assert torch.equal(values, IMAGES)
    assert find_idx(tmp_path, "images") == path
    values.zero_()  # owned memory, not a read-only view of the file


def test_a_plain_file_is_preferred_and_a_missing_one_is_none(tmp_path: Path) -> None:
    assert find_idx(tmp_path, "images") is None
    write(tmp_path, GOOD, ".gz")
    plain = write(tmp_path, GOOD)
    assert find_idx(tmp_path, "images") == plain


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "starts with nothing"),
        (b"\x00\x00\x08", "starts with 000008"),
        (b"\x00\x00\x0d\x03" + GOOD[4:], "starts with 00000d03"),
        (b"\x00\x00\x08\x01" + GOOD[4:], "starts with 00000801"),
        (GOOD[:10], "inside its header"),
        (GOOD[:-1], "less than the 24 bytes"),
        (GOOD + b"\x00", "more than the 24 bytes"),
        (GOOD[:4] + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1) + GOOD[16:], "states sizes"),
        (GOOD[:4] + struct.pack(">3I", 0, 3, 4), "states sizes"),
        (GOOD[:-1] + b"\xff", "SHA-256"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, content: bytes, reason: str, suffix: str) -> None:
    path = write(tmp_path, content, suffix)
    with pytest.raises(UsageError, match=reason) as caught:
        read_idx(path, 3, hashlib.sha256(GOOD).hexdigest())
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: b"not gzip at all",
        lambda packed: packed[: len(packed) // 2],
        lambda packed: packed[:-6] + bytes(6),
        lambda packed: packed[:12] + bytes(byte ^ 255 for byte in packed[12:20]) + packed[20:],
    ],
    ids=["foreign", "cut", "checksum", "stream"],
)
def test_a_damaged_gzip_file_is_refused_by_name(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(damage(gzip.compress(GOOD, mtime=0)))
    with pytest.raises(UsageError, match=r"images\.gz"):
        read_idx(path, 3)


def test_a_gzip_bomb_is_read_no_further_than_its_header_says(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + bytes(50_000_000), ".gz")
    assert path.stat().st_size < 100_000
    with pytest.raises(UsageError, match="more than the 24 bytes"):
        read_idx(path, 3)


@settings(deadline=None, max_examples=200)
@given(content=st.binary(max_size=60) | st.binary(max_size=40).map(lambda tail: GOOD[:8] + tail))
def test_no_bytes_at_all_raise_anything_but_a_usage_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = write(tmp_path_factory.mktemp("fuzz"), content)
    try:
        values = read_idx(path, 3)
    except UsageError:
        return
    assert idx_bytes(values) == content
