"""Whether what a `dataset.json` says has the form that all its readers rely on; it may come from anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_args

from scaledl.data.arrays import Target
from scaledl.data.prepare.items import SPLITS
from scaledl.data.prepare.shards import shard_files
from scaledl.data.stored import INDEX
from scaledl.run.files import is_sha256

_DIMENSIONS = {"image": 3, "table": 1, "series": 2}  # of `in_shape`
_MOST = 2**40  # rows of a split, or values of one input


def broken_fields(document: dict[str, Any], parts: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Names of what is missing or of another type, first what others follow from.

    Args:
        parts: of each modality, the arrays of a split.

    Raises:
        UsageError: shards that cannot be.
    """
    modality = document.get("modality")
    if not isinstance(modality, str) or modality not in parts:
        yield "modality"
        return
    splits = document.get("splits")
    for split in SPLITS:
        if not _is_split(splits[split] if isinstance(splits, dict) and split in splits else None, parts[modality]):
            yield f"splits.{split}"
            return
    checks = {**_COMMON, **(_OF_MODALITY.get(modality, {}))}
    broken = [name for name, sound_fn in checks.items() if not sound_fn(document.get(name), document)]
    yield from broken
    if not broken and not _is_sharded_soundly(document):
        yield "splits"


def _is_split(split: Any, parts: Sequence[str]) -> bool:
    if not isinstance(split, dict) or not _is_count(split.get("rows")):
        return False
    hashes = split.get("sha256")
    if "shards" in split:
        return hashes is None and (INDEX not in split or is_sha256(split[INDEX]))
    return isinstance(hashes, dict) and hashes.keys() == set(parts) and all(map(is_sha256, hashes.values()))


def _is_sharded_soundly(document: dict[str, Any]) -> bool:
    """Only the training split may be in shards."""
    splits = document["splits"]
    if any("shards" in splits[split] for split in ("val", "test")):
        return False
    if "shards" not in splits["train"]:
        return True
    rows: int = splits["train"]["rows"]
    return sum(file.rows for file in shard_files(document)) == rows


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)


def _is_text(value: Any) -> bool:
    """Of characters that can be written."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _are(value: Any, sound_fn: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(sound_fn, value))


def _are_labels(value: Any, document: dict[str, Any]) -> bool:
    return _are(value, _is_text) and (len(value) > 0) != (_target(document) == "none")


def _is_profile(value: Any, document: dict[str, Any]) -> bool:
    """Of each split, a count for each class, where there are such."""
    classes, labels = value.get("classes") if isinstance(value, dict) else None, document.get("labels")
    if _target(document) in ("numbers", "none"):
        return classes == {}
    return (
        isinstance(classes, dict)
        and isinstance(labels, list)
        and all(_are(classes.get(split), _is_count) and len(classes[split]) == len(labels) for split in SPLITS)
    )


def _target(document: dict[str, Any]) -> Any:
    return document.get("target", "class")


def _is_target(value: Any, document: dict[str, Any]) -> bool:
    """It says nothing where there are classes."""
    if "target" not in document:
        return True
    masks = value != "mask" or document["modality"] == "image"
    tags = value != "tags" or document["modality"] in ("text", "series")
    return isinstance(value, str) and value in get_args(Target) and masks and tags


def _are_targets(value: Any, document: dict[str, Any]) -> bool:
    """Of each number that is to be predicted what it is in training."""
    labels = document.get("labels")
    if _target(document) != "numbers":
        return True
    named = _are(value, lambda one: isinstance(one, dict) and _is_quantity(one))
    return named and isinstance(labels, list) and [one.get("name") for one in value] == labels


def _is_quantity(one: dict[str, Any]) -> bool:
    return all(_is_number(one.get(name)) for name in ("mean", "std", "min", "max")) and one["std"] > 0


def _are_target_classes(value: Any, document: dict[str, Any]) -> bool:
    """Of each number the names of the classes that it counts."""
    if "target_classes" not in document:
        return True
    named = _target(document) == "numbers" and _are(value, lambda names: _are(names, _is_text))
    return named and len(value) == len(document["labels"])


def _is_width(value: Any, document: dict[str, Any]) -> bool:
    """How many tags the longest sample has."""
    return _target(document) != "tags" or (_is_count(value) and value > 0)


def _is_shape(value: Any, document: dict[str, Any]) -> bool:
    sizes = _are(value, _is_count) and len(value) == _DIMENSIONS[document["modality"]]
    return sizes and 0 < math.prod(value) < _MOST


def _are_means(value: Any, document: dict[str, Any]) -> bool:
    """One for each channel; without training images there are none."""
    empty, shape = not document["splits"]["train"]["rows"], document.get("in_shape")
    return isinstance(shape, list) and (
        _are(value, lambda one: _is_number(one) or (empty and one is None)) and [len(value)] == shape[:1]
    )


def _are_deviations(value: Any, document: dict[str, Any]) -> bool:
    return _are_means(value, document) and all(one is None or one > 0 for one in value)


def _are_columns(value: Any, document: dict[str, Any]) -> bool:
    shape = document.get("in_shape")
    kinds = ("numeric", "category") if document["modality"] == "table" else ("numeric",)
    return isinstance(shape, list) and _are(value, lambda one: _is_column(one, kinds)) and [len(value)] == shape[:1]


def _is_column(column: Any, kinds: Sequence[str]) -> bool:
    if not isinstance(column, dict) or not _is_text(column.get("name")) or not _is_count(column.get("missing")):
        return False
    if column.get("kind") not in kinds:
        return False
    if column["kind"] == "category":
        return _are(column.get("categories"), _is_text) and len(column["categories"]) > 0
    return _is_quantity(column)


_COMMON: dict[str, Callable[[Any, dict[str, Any]], bool]] = {
    "plan": lambda value, _: isinstance(value, dict),
    "fingerprint": lambda value, _: is_sha256(value),
    "target": _is_target,
    "labels": _are_labels,
    "targets": _are_targets,
    "target_classes": _are_target_classes,
    "unlabeled": lambda value, document: "unlabeled" not in document or _is_count(value),
    "tags": _is_width,
    "profile": _is_profile,
    "notes": lambda value, _: _are(value, _is_text),
    "dropped": lambda value, _: isinstance(value, dict) and all(map(_is_count, value.values())),
}
_OF_MODALITY: dict[str, dict[str, Callable[[Any, dict[str, Any]], bool]]] = {
    "image": {"in_shape": _is_shape, "mean": _are_means, "std": _are_deviations},
    "table": {"in_shape": _is_shape, "columns": _are_columns},
    "series": {"in_shape": _is_shape, "columns": _are_columns},
}
