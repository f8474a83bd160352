"""Arrays of a prepared data set, mapped from its files."""

from __future__ import annotations

import itertools
import weakref
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scaledl.data.arrays import Target
from scaledl.data.prepare.store import array_name, npy_size
from scaledl.data.stream.place import Place
from scaledl.errors import UsageError

_DTYPES = {
    **{"images": np.uint8, "features": np.float32, "series": np.float32},
    **{"bytes": np.uint8, "offsets": np.int64, "ids": np.int64},
}
_LABELS: dict[Target, Any] = {"classes": np.float32, "numbers": np.float32, "mask": np.int16}  # of others int64
_AGAIN = "fix: prepare the data again with --force"


def mapped(place: Place, split: str, part: str, document: dict[str, Any], count: int = 0) -> Tensor:
    """It keeps its file in the cache, where there is one, for as long as somebody has the values.

    `count`: of the bytes of texts, which the document does not say.
    """
    dtype, expected = _stored(split, part, document, count)
    sha256 = document["splits"][split]["sha256"][part]
    path, held = place.find(array_name(split, part), npy_size(dtype, expected), sha256)
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
    offsets = mapped(place, split, "offsets", document).tolist()
    content = mapped(place, split, "bytes", document, offsets[-1]).numpy().tobytes()
    try:
        return [content[begin:end].decode() for begin, end in itertools.pairwise(offsets)]
    except UnicodeDecodeError as error:
        raise UsageError(f"{place.where}: the texts of its {split} split are damaged; {_AGAIN}") from error


def stored_size(split: str, part: str, document: dict[str, Any]) -> int:
    """Bytes of an array's file."""
    return npy_size(*_stored(split, part, document, 0))


def _stored(split: str, part: str, document: dict[str, Any], count: int) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Type and shape of an array as it lies on the disk."""
    rows = document["splits"][split]["rows"]
    rows = {"offsets": rows + 1, "bytes": count}.get(part, rows)
    dtype = _LABELS.get(target_of(document), np.int64) if part == "labels" else _DTYPES[part]
    return np.dtype(dtype), (rows, *_stored_shape(part, document))


def _stored_shape(part: str, document: dict[str, Any]) -> list[int]:
    """Of one sample: images lie in memory with their channels last."""
    if part == "labels":
        return _label_shape(document)
    if part not in ("images", "features", "series"):
        return []
    in_shape: list[int] = document["in_shape"]
    return [*in_shape[1:], in_shape[0]] if part == "images" else in_shape


def _label_shape(document: dict[str, Any]) -> list[int]:
    target = target_of(document)
    if target in ("classes", "numbers"):
        return [len(document["labels"])]
    if target == "tags":
        return [document["tags"]]
    return list(document["in_shape"][1:]) if target == "mask" else []


def target_of(document: dict[str, Any]) -> Target:
    """What a set's labels are."""
    target: Target = document.get("target", "class")
    return target


def _why(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "missing"
    return f"cannot be read ({' '.join(str(error).split())[:150]})"
