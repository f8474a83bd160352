"""The arrays of a prepared data set, as its document says: names, types, and the shape of a sample in each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from scaledl.data.arrays import Target

PARTS: dict[str, tuple[str, ...]] = {
    "image": ("images", "labels", "ids"),
    "table": ("features", "labels", "ids"),
    "text": ("bytes", "offsets", "labels", "ids"),
    "series": ("series", "lengths", "labels", "ids"),
}
INPUTS = {"image": "images", "table": "features", "series": "series"}  # the part that a model sees
BYTES, OFFSETS = "bytes", "offsets"  # of texts: all of them one behind the other, and where each begins
INDEX = "index"  # of a training split in shards, where samples have classes: id and label of each, int64 [N, 2]
_DTYPES = {
    **{"images": np.uint8, "features": np.float32, "series": np.float32},
    **{BYTES: np.uint8, OFFSETS: np.int64, "lengths": np.int64, "ids": np.int64},
}
_LABELS: dict[Target, Any] = {"classes": np.float32, "numbers": np.float32, "mask": np.int16}  # of others int64


class Field(NamedTuple):
    """One array: of each sample a value of this shape. Of `bytes` a sample has as many as its text takes, and of
    `offsets` there is one more."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


def field_of(part: str, document: dict[str, Any]) -> Field:
    dtype = _LABELS.get(target_of(document), np.int64) if part == "labels" else _DTYPES[part]
    return Field(part, np.dtype(dtype), tuple(_shape_of(part, document)))


@dataclass(frozen=True)
class Form:
    """What a shard holds of its samples.

    Attributes:
        fields: in the order in which they lie there: what takes more bytes first, so that all are aligned.
        target: what the labels are.
        num_classes: labels that are whole numbers are below it.
        unlabeled: whether some have no class.
    """

    fields: tuple[Field, ...]
    target: Target
    num_classes: int
    unlabeled: bool = False

    @classmethod
    def of(cls, document: dict[str, Any]) -> Form:
        parts = dict.fromkeys(("ids", "labels", *PARTS[document["modality"]]))
        fields = sorted((field_of(part, document) for part in parts), key=lambda field: -field.dtype.itemsize)
        return cls(tuple(fields), target_of(document), len(document["labels"]), bool(document.get("unlabeled")))

    @property
    def row_bytes(self) -> int:
        """Of a sample; without its text."""
        return sum(field.row_bytes for field in self.fields if field.name != BYTES)

    @property
    def has_texts(self) -> bool:
        return any(field.name == BYTES for field in self.fields)

    def field(self, name: str) -> Field:
        return next(field for field in self.fields if field.name == name)

    def shape(self, field: Field, rows: int, content: int) -> tuple[int, ...]:
        """Of the whole array; `content`: bytes of the texts."""
        return ({OFFSETS: rows + 1, BYTES: content}.get(field.name, rows), *field.shape)


def target_of(document: dict[str, Any]) -> Target:
    """What a set's labels are."""
    target: Target = document.get("target", "class")
    return target


def _shape_of(part: str, document: dict[str, Any]) -> list[int]:
    """Of one sample: images lie in memory with their channels last."""
    if part == "labels":
        return _label_shape(document)
    if part not in INPUTS.values():
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
