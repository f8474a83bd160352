"""Arrays of a prepared data set, mapped from its files."""

from __future__ import annotations

import dataclasses
import itertools
import weakref
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scaledl.data.prepare.store import array_name, npy_size
from scaledl.data.stored import BYTES, INDEX, OFFSETS, field_of
from scaledl.data.stream.place import Place
from scaledl.data.stream.split import Stream
from scaledl.errors import UsageError

_AGAIN = "fix: prepare the data again with --force"


def mapped(place: Place, split: str, part: str, document: dict[str, Any], count: int = 0) -> Tensor:
    """It keeps its file in the cache, where there is one, for as long as somebody has the values.

    `count`: of the bytes of texts, which the document does not say.
    """
    dtype, expected = _stored(split, part, document, count)
    sha256 = document["splits"][split]["sha256"][part]
    return _loaded(place, array_name(split, part), dtype, expected, sha256)


def with_index(stream: Stream, place: Place, document: dict[str, Any]) -> Stream:
    """It knows ids and labels without its shards, where the set was made with such an index."""
    about = document["splits"]["train"]
    if INDEX not in about:
        return stream

    def index() -> tuple[Tensor, Tensor]:
        found = _loaded(place, array_name("train", INDEX), np.dtype(np.int64), (about["rows"], 2), about[INDEX])
        ids, labels = found.T.contiguous()
        return ids, labels

    return dataclasses.replace(stream, index_fn=index)


def _loaded(place: Place, name: str, dtype: np.dtype[Any], expected: tuple[int, ...], sha256: str) -> Tensor:
    path, held = place.find(name, npy_size(dtype, expected), sha256)
    try:
        # Copy on write: torch knows no read-only tensors, and pages that are only read stay those of the file.
        values: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{path}: {_why(error)}; {_AGAIN}") from error
    if held is not None:
        weakref.finalize(values, held.close)
    if values.shape != expected or values.dtype != dtype:
        raise UsageError(f"{path}: holds {values.dtype} {values.shape} instead of {dtype} {expected}; {_AGAIN}")
    return torch.from_numpy(values)


def texts(place: Place, split: str, document: dict[str, Any]) -> list[str]:
    """A split's texts. Raises UsageError where their bytes are not what the set was made with."""
    damaged = f"{place.where}: the texts of its {split} split are damaged; {_AGAIN}"
    offsets = mapped(place, split, "offsets", document)
    if int(offsets[0]) != 0 or bool((offsets.diff() < 0).any()):
        raise UsageError(damaged)
    content = mapped(place, split, "bytes", document, int(offsets[-1])).numpy().tobytes()
    try:
        return [content[begin:end].decode() for begin, end in itertools.pairwise(offsets.tolist())]
    except UnicodeDecodeError as error:
        raise UsageError(damaged) from error


def stored_size(split: str, part: str, document: dict[str, Any]) -> int:
    """Bytes of an array's file."""
    return npy_size(*_stored(split, part, document, 0))


def _stored(split: str, part: str, document: dict[str, Any], count: int) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Type and shape of an array as it lies on the disk."""
    field, rows = field_of(part, document), document["splits"][split]["rows"]
    return field.dtype, ({OFFSETS: rows + 1, BYTES: count}.get(part, rows), *field.shape)


def _why(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "missing"
    return f"cannot be read ({' '.join(str(error).split())[:150]})"
