"""The training split of a data set in shards, each a fair sample of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scaledl.data.hashing import ORDER, hash_ids, hash_key
from scaledl.data.prepare.images import Pixels
from scaledl.data.stored import BYTES, Form
from scaledl.data.stream.shard import Shard, ShardFile, shard_bytes, write_shard
from scaledl.errors import UsageError
from scaledl.run.files import atomic_file, is_sha256, sha256_file

_NAME = re.compile(r"train-\d{5,9}\.safetensors")
_MOST_SHARDS = 1_000_000
_MB = 10**6

# rows of the split, int64 [K] -> all their parts but ids
RowsFn = Callable[[NDArray[np.int64]], Mapping[str, NDArray[Any]]]


def write_shards(
    folder: Path,
    rows_fn: RowsFn,
    ids: NDArray[np.int64],
    form: Form,
    megabytes: int,
    seed: int,
    lengths: NDArray[np.int64] | None = None,
) -> tuple[list[dict[str, Any]], NDArray[np.int64]]:
    """Write all samples in an order that is a hash of their ids; returns what the document says of the shards, and the
    order: rows of the split as they lie in them, int64 [N].

    Args:
        ids: int64 [N].
        megabytes: of a shard, at most, but that it has one row.
        lengths: int64 [N], bytes of each text, where samples have such.
    """
    order = hash_ids(torch.from_numpy(ids), [hash_key(seed, ORDER)])[0].argsort(stable=True).numpy()
    limit = megabytes * _MB
    if lengths is None:
        parts = np.array_split(order, -(-len(ids) // max(1, limit // form.row_bytes)))
    else:
        parts = list(_cut(order, form.row_bytes + lengths[order], limit))
    files = [
        _write(folder / f"train-{number:05d}.safetensors", form, {"ids": ids[rows], **rows_fn(rows)}).to_dict()
        for number, rows in enumerate(parts)
    ]
    return files, order


def _cut(order: NDArray[np.int64], sizes: NDArray[np.int64], limit: int) -> Iterator[NDArray[np.int64]]:
    """Parts of near-equal bytes, each of at most `limit`, but that it has one row."""
    ends = np.cumsum(sizes)
    total, begin = int(ends[-1]), 0
    while begin < len(order):
        before = int(ends[begin - 1]) if begin else 0
        share = -(-(total - before) // max(1, -(-(total - before) // limit)))
        stop = max(begin + 1, int(np.searchsorted(ends, before + share, side="right")))
        yield order[begin:stop]
        begin = stop


def _write(path: Path, form: Form, values: Mapping[str, NDArray[Any]]) -> ShardFile:
    with atomic_file(path, "data set") as temporary, temporary.open("wb") as file:
        write_shard(file, form, values)
    content = len(values.get(BYTES, ()))
    return ShardFile(path.name, len(values["ids"]), path.stat().st_size, sha256_file(path), content)


def shard_files(document: dict[str, Any]) -> list[ShardFile]:
    """What a document says of its shards. Raises UsageError where it cannot be true."""
    found, form = document["splits"]["train"]["shards"], Form.of(document)
    if not isinstance(found, list) or not 0 < len(found) <= _MOST_SHARDS:
        raise UsageError("its list of shards is none; fix: prepare it again with --force")
    files = [_shard_file(one, form) for one in found]
    if len({file.name for file in files}) < len(files):
        raise UsageError("it lists a shard twice; fix: prepare it again with --force")
    return files


def _shard_file(one: Any, form: Form) -> ShardFile:
    try:
        file = ShardFile(**one)
        counts = type(file.rows) is int and 0 < file.rows < 2**40 and type(file.content) is int
        texts = 0 <= file.content < 2**50 and (form.has_texts or not file.content)
        sound = counts and texts and _NAME.fullmatch(file.name) and is_sha256(file.sha256)
        if sound and file.bytes == shard_bytes(form, file.rows, file.content):
            return file
    except (TypeError, ValueError):
        pass
    raise UsageError(f"it says of a shard {str(one)[:150]}, which cannot be; fix: prepare it again with --force")


def training_images(folder: Path, document: dict[str, Any]) -> tuple[Pixels, NDArray[Any]]:
    """Images uint8 [N, H, W, C] and labels, mapped: of a prepared set's training split, or of its first shard."""
    if "shards" not in document["splits"]["train"]:
        images, labels = (np.load(folder / f"train-{part}.npy", mmap_mode="r") for part in ("images", "labels"))
        return images, labels
    file = shard_files(document)[0]
    shard = Shard(folder / file.name, file, Form.of(document))
    return shard.parts["images"].numpy(), shard.parts["labels"].numpy()
