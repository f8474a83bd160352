"""Shards that are not what they have to be: one message each, before anything is read from them."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.unit.data.stream.sets import FORM, SHAPE, SPEC, write_stream

from scaledl.data.stream.loader import StreamLoader
from scaledl.data.stream.shard import Shard, ShardFile
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit


def relabel(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[_labels_at(data)] = 77
    path.write_bytes(data)


def _labels_at(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little") + 8 * 5


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "cut short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "0 of": lambda path: os.truncate(path, 0),
    "too long": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "its header is not that of 5 samples with images of 4x5x3": lambda path: path.write_bytes(
        b"x" * path.stat().st_size
    ),
    "labels outside 0..2": relabel,
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_shard_is_named(tmp_path: Path, what: str) -> None:
    stream = write_stream(tmp_path, [5, 5, 5], spread=1, ahead=0)
    DAMAGE[what](tmp_path / "train-00001.safetensors")
    with pytest.raises(UsageError, match=rf"train-00001\.safetensors: .*{what}.*fix:"):
        list(StreamLoader(stream, SPEC, 4))


def test_more_open_shards_than_a_process_may_have(tmp_path: Path) -> None:
    stream = write_stream(tmp_path, [5] * 40, spread=40, ahead=0)
    most, never = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 8, never))
    try:
        with pytest.raises(UsageError, match=r"train-\d{5}\.safetensors: .*many open files.*fix: raise `ulimit -n`"):
            list(StreamLoader(stream, SPEC, 100))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, never))


def test_any_reader_of_safetensors_reads_a_shard(tmp_path: Path) -> None:
    stream = write_stream(tmp_path, [5, 3])
    found = load_file(tmp_path / "train-00001.safetensors")
    shard = stream.open(1)
    assert {name: tuple(values.shape) for name, values in found.items()} == {
        **{"ids": (3,), "labels": (3,)},
        "images": (3, *SHAPE),
    }
    assert all(torch.equal(shard.parts[name], values) for name, values in found.items())


def test_a_folder_in_place_of_a_shard(tmp_path: Path) -> None:
    size = tmp_path.stat().st_size
    with pytest.raises(UsageError, match="cannot be read"):
        Shard(tmp_path, ShardFile("a", 1, size, ""), FORM)
