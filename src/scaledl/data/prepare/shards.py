"""The training split of images in shards, each a fair sample of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scaledl.data.hashing import ORDER, hash_ids, hash_key
from scaledl.data.prepare.images import Pixels
from scaledl.data.stream.shard import Shard, ShardFile, header, write_shard
from scaledl.errors import UsageError
from scaledl.run.files import atomic_file, is_sha256, sha256_file

_NAME = re.compile(r"train-\d{5,9}\.safetensors")
_MOST_SHARDS = 1_000_000

GatherFn = Callable[[NDArray[np.int64]], Pixels]


def write_shards(
    folder: Path,
    gather_fn: GatherFn,
    ids: NDArray[np.int64],
    labels: NDArray[np.int64],
    shape: tuple[int, ...],
    megabytes: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Write all samples in an order that is a hash of their ids; returns what the document says of the shards.

    Args:
        gather_fn: rows of the split, int64 [K] -> their images, uint8 [K, H, W, C].
        ids, labels: int64 [N].
        shape: [H, W, C].
        megabytes: of a shard, at most, but that it has one row.
    """
    order = hash_ids(torch.from_numpy(ids), [hash_key(seed, ORDER)])[0].argsort(stable=True).numpy()
    rows_each = max(1, megabytes * 10**6 // (16 + int(np.prod(shape))))
    parts = np.array_split(order, -(-len(ids) // rows_each))
    return [
        _write(folder / f"train-{number:05d}.safetensors", ids[rows], labels[rows], gather_fn(rows)).to_dict()
        for number, rows in enumerate(parts)
    ]


def _write(path: Path, ids: NDArray[np.int64], labels: NDArray[np.int64], images: Pixels) -> ShardFile:
    with atomic_file(path, "data set") as temporary, temporary.open("wb") as file:
        write_shard(file, ids, labels, images)
    return ShardFile(path.name, len(ids), path.stat().st_size, sha256_file(path))


def shard_files(found: Any, shape: Sequence[int]) -> list[ShardFile]:
    """What a document says of its shards, of images [H, W, C]. Raises UsageError where it cannot be true."""
    if not isinstance(found, list) or not 0 < len(found) <= _MOST_SHARDS:
        raise UsageError("its list of shards is none; fix: prepare it again with --force")
    files = [_shard_file(one, tuple(shape)) for one in found]
    if len({file.name for file in files}) < len(files):
        raise UsageError("it lists a shard twice; fix: prepare it again with --force")
    return files


def _shard_file(one: Any, shape: tuple[int, ...]) -> ShardFile:
    try:
        file = ShardFile(**one)
        size = len(header(file.rows, shape)) + file.rows * (16 + int(np.prod(shape)))
        sound = _NAME.fullmatch(file.name) and is_sha256(file.sha256) and type(file.rows) is int
        if sound and 0 < file.rows < 2**40 and file.bytes == size:
            return file
    except (TypeError, ValueError):
        pass
    raise UsageError(f"it says of a shard {str(one)[:150]}, which cannot be; fix: prepare it again with --force")


def training_images(folder: Path, document: dict[str, Any]) -> tuple[Pixels, NDArray[np.int64]]:
    """Images uint8 [N, H, W, C] and labels, mapped: of a prepared set's training split, or of its first shard."""
    about = document["splits"]["train"]
    if "shards" not in about:
        images, labels = (np.load(folder / f"train-{part}.npy", mmap_mode="r") for part in ("images", "labels"))
        return images, labels
    channels, height, width = document["in_shape"]
    shape = (height, width, channels)
    file = shard_files(about["shards"], shape)[0]
    shard = Shard(folder / file.name, file, shape, len(document["labels"]))
    return shard.images.numpy(), shard.labels.numpy()
