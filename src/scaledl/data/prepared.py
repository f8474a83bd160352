"""A data set that `scaledl data prepare` has made: mapped into memory, so it may be larger than that."""

from __future__ import annotations

import dataclasses
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scaledl.config.schema import DataConfig
from scaledl.data.arrays import Arrays, DataSpec
from scaledl.data.datamodule import DataModule, in_shape_of
from scaledl.data.one_hot import one_hot
from scaledl.data.prepare.items import SPLITS
from scaledl.data.prepare.store import array_name, hashes, npy_size
from scaledl.data.stream.place import Place, build_stream, open_place
from scaledl.errors import UsageError
from scaledl.run.files import sha256_file

INPUTS = {"image": "images", "table": "features", "series": "series"}  # the part that a model sees
_DTYPES = {"images": np.uint8, "features": np.float32, "series": np.float32, "labels": np.int64, "ids": np.int64}


def load_prepared(config: DataConfig) -> DataModule:
    """The set in `config.root`. Raises UsageError where there is none, or its files are not those it was made with."""
    if config.root is None:
        raise UsageError("data.root: missing; with data.source=prepared give the folder that `data prepare --out` made")
    place = open_place(config)
    document = place.document()
    if document["modality"] not in INPUTS:
        raise UsageError(
            f"data.source: got {place.where}, which holds a prepared set of modality {document['modality']}; allowed: "
            f"{', '.join(INPUTS)} (this version has no model for texts)"
        )
    empty = [split for split in SPLITS if not document["splits"][split]["rows"]]
    if empty:
        raise UsageError(
            f"data.source: {place.where} has nothing in its {' and '.join(empty)} split; fix: prepare it again with "
            f"{' and '.join(f'data.prepare.{split}_fraction above 0' for split in empty)}"
        )
    parts = (INPUTS[document["modality"]], "labels", "ids")
    streamed = "shards" in document["splits"]["train"]
    in_arrays = [split for split in SPLITS if not (streamed and split == "train")]
    size = sum(npy_size(*_stored(split, part, document)) for split in in_arrays for part in parts)
    if streamed:
        stream = build_stream(place, document, config, size)
    else:
        place.check((), 0, size)
    splits = {split: Arrays(*(_mapped(place, split, part, document) for part in parts)) for split in in_arrays}
    if document["modality"] == "table":
        splits = {
            split: dataclasses.replace(arrays, inputs=one_hot(arrays.inputs, document["columns"]))
            for split, arrays in splits.items()
        }
    mean, std = _statistics(document)
    spec = DataSpec(
        place.name,
        in_shape_of(splits["val"].inputs),
        tuple(document["labels"]),
        mean,
        std,
        document["fingerprint"],
    )
    return DataModule(spec, stream if streamed else splits["train"], splits["val"], splits["test"])


def _statistics(document: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel or column; what stands for a category is left as 0 and 1."""
    if document["modality"] == "image":
        return tuple(document["mean"]), tuple(document["std"])
    pairs = [pair for column in document["columns"] for pair in _pairs(column)]
    return tuple(mean for mean, _ in pairs), tuple(std for _, std in pairs)


def _pairs(column: dict[str, Any]) -> list[tuple[float, float]]:
    return (
        [(column["mean"], column["std"])] if column["kind"] == "numeric" else [(0.0, 1.0)] * len(column["categories"])
    )


def check_files(folder: Path, document: dict[str, Any]) -> list[str]:
    """Names of the files whose bytes are not those that the set was made with."""
    return [
        name
        for name, known in hashes(document).items()
        if not (folder / name).is_file() or sha256_file(folder / name) != known
    ]


def _mapped(place: Place, split: str, part: str, document: dict[str, Any]) -> Tensor:
    """It keeps its file in the cache, where there is one, for as long as somebody has the values."""
    dtype, expected = _stored(split, part, document)
    sha256 = document["splits"][split]["sha256"][part]
    path, held = place.find(array_name(split, part), npy_size(dtype, expected), sha256)
    try:
        # Copy on write: torch knows no read-only tensors, and pages that are only read stay those of the file.
        values: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{path}: {_why(error)}; fix: prepare the data again with --force") from error
    if held is not None:
        weakref.finalize(values, held.close)
    if values.shape != expected or values.dtype != dtype:
        raise UsageError(
            f"{path}: holds {values.dtype} {values.shape} instead of {dtype} {expected}; "
            "fix: prepare the data again with --force"
        )
    return torch.from_numpy(values)


def _stored(split: str, part: str, document: dict[str, Any]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Type and shape of an array as it lies on the disk."""
    rows = document["splits"][split]["rows"]
    return np.dtype(_DTYPES[part]), (rows, *_stored_shape(part, document["in_shape"]))


def _stored_shape(part: str, in_shape: list[int]) -> list[int]:
    """Of one sample: images lie in memory with their channels last."""
    if part == "images":
        return [*in_shape[1:], in_shape[0]]
    return list(in_shape) if part in INPUTS.values() else []


def _why(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "missing"
    return f"cannot be read ({' '.join(str(error).split())[:150]})"
