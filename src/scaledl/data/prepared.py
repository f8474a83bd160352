"""A data set that `scaledl data prepare` has made: mapped into memory, so it may be larger than that."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from scaledl.config.schema import DataConfig
from scaledl.data.arrays import Arrays, DataSpec
from scaledl.data.datamodule import DataModule, in_shape_of
from scaledl.data.mapped import mapped, stored_size, target_of, texts
from scaledl.data.one_hot import one_hot
from scaledl.data.prepare.items import SPLITS
from scaledl.data.prepare.store import hashes
from scaledl.data.stream.place import Place, build_stream, open_place
from scaledl.data.tags import tokenize_tagged
from scaledl.data.text import text_spec, tokenize
from scaledl.errors import UsageError
from scaledl.run.files import sha256_file

INPUTS = {"image": "images", "table": "features", "series": "series"}  # the part that a model sees


def load_prepared(config: DataConfig) -> DataModule:
    """The set in `config.root`. Raises UsageError where there is none, or its files are not those it was made with."""
    if config.root is None:
        raise UsageError("data.root: missing; with data.source=prepared give the folder that `data prepare --out` made")
    place = open_place(config)
    document = place.document()
    _check_filled(place, document)
    if document["modality"] == "text":
        return _of_texts(place, document, config)
    parts = (INPUTS[document["modality"]], "labels", "ids")
    streamed = "shards" in document["splits"]["train"]
    in_arrays = [split for split in SPLITS if not (streamed and split == "train")]
    size = sum(stored_size(split, part, document) for split in in_arrays for part in parts)
    if streamed:
        stream = build_stream(place, document, config, size)
    else:
        place.check((), 0, size)
    splits = {split: Arrays(*(mapped(place, split, part, document) for part in parts)) for split in in_arrays}
    if document["modality"] == "table":
        splits = {
            split: dataclasses.replace(arrays, inputs=one_hot(arrays.inputs, document["columns"]))
            for split, arrays in splits.items()
        }
    mean, std = _statistics(document)
    spec = DataSpec(
        source=place.name,
        in_shape=in_shape_of(splits["val"].inputs),
        labels=tuple(document["labels"]),
        mean=mean,
        std=std,
        fingerprint=document["fingerprint"],
        **_target(document),
    )
    return DataModule(spec, stream if streamed else splits["train"], splits["val"], splits["test"])


def _target(document: dict[str, Any]) -> dict[str, Any]:
    """What a spec says of the targets."""
    scaled = {f"target_{name}": tuple(one[name] for one in document.get("targets", ())) for name in ("mean", "std")}
    return {"target": target_of(document), **scaled}


def _check_filled(place: Place, document: dict[str, Any]) -> None:
    empty = [split for split in SPLITS if not document["splits"][split]["rows"]]
    if empty:
        raise UsageError(
            f"data.source: {place.where} has nothing in its {' and '.join(empty)} split; fix: prepare it again with "
            f"{' and '.join(f'data.prepare.{split}_fraction above 0' for split in empty)}"
        )


def _of_texts(place: Place, document: dict[str, Any], config: DataConfig) -> DataModule:
    """Tokenised as `data.text` says: the set itself has texts."""
    labels = {split: mapped(place, split, "labels", document) for split in SPLITS}
    found = {split: texts(place, split, document) for split in SPLITS}
    if target_of(document) == "tags":
        tokens, labels, tokenizer = tokenize_tagged(found, labels, config.text)
    else:
        tokens, tokenizer = tokenize(found, config.text)
    splits = {split: Arrays(tokens[split], labels[split], mapped(place, split, "ids", document)) for split in SPLITS}
    spec = text_spec(place.name, splits, tuple(document["labels"]), target_of(document), tokenizer)
    return DataModule(dataclasses.replace(spec, **_target(document)), **splits)


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
