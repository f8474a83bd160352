"""A data set that `scaledl data prepare` has made: mapped into memory, so it may be larger than that."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaledl.config.schema import DataConfig
from scaledl.data.arrays import Arrays, DataSpec
from scaledl.data.datamodule import DataModule, in_shape_of
from scaledl.data.mapped import mapped, stored_size, target_of, texts
from scaledl.data.prepare.items import SPLITS
from scaledl.data.prepare.store import hashes
from scaledl.data.stream.place import Place, build_stream, open_place
from scaledl.data.table_features import features_of
from scaledl.data.tags import tokenize_tagged
from scaledl.data.text import text_spec, tokenize
from scaledl.errors import UsageError
from scaledl.run.files import sha256_file
from scaledl.runtime.columns import TableColumn, order_of

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
    table = document["modality"] == "table"
    columns = tuple(map(TableColumn.from_dict, document["columns"])) if table else ()
    codes = table and config.categories == "embed" and any(column.categories for column in columns)
    if table:
        splits = {split: _with_features(arrays, columns, codes=codes) for split, arrays in splits.items()}
    mean, std = _statistics(document, columns, codes=codes)
    spec = DataSpec(
        source=place.name,
        in_shape=in_shape_of(splits["val"].inputs),
        labels=tuple(document["labels"]),
        mean=mean,
        std=std,
        fingerprint=document["fingerprint"],
        categories=tuple(len(column.categories) + 1 for column in columns if column.categories) if codes else (),
        columns=columns,
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


def _with_features(arrays: Arrays, columns: Sequence[TableColumn], *, codes: bool) -> Arrays:
    return dataclasses.replace(arrays, inputs=features_of(arrays.inputs, columns, codes=codes))


def _statistics(
    document: dict[str, Any], columns: Sequence[TableColumn], *, codes: bool
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel or column; what stands for a category is left as it is."""
    if document["modality"] == "image":
        return tuple(document["mean"]), tuple(document["std"])
    described = document["columns"]
    places = order_of(columns) if codes else range(len(described))
    pairs = [pair for place in places for pair in _pairs(described[place], codes=codes)]
    return tuple(mean for mean, _ in pairs), tuple(std for _, std in pairs)


def _pairs(column: dict[str, Any], *, codes: bool) -> list[tuple[float, float]]:
    if column["kind"] == "numeric":
        return [(column["mean"], column["std"])]
    return [(0.0, 1.0)] * (1 if codes else len(column["categories"]))


def check_files(folder: Path, document: dict[str, Any]) -> list[str]:
    """Names of the files whose bytes are not those that the set was made with."""
    return [
        name
        for name, known in hashes(document).items()
        if not (folder / name).is_file() or sha256_file(folder / name) != known
    ]
