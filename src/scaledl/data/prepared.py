"""A data set that `scaledl data prepare` has made: mapped into memory, so it may be larger than that."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaledl.config.schema import DataConfig
from scaledl.data.arrays import Arrays, DataSpec
from scaledl.data.datamodule import DataModule, in_shape_of
from scaledl.data.mapped import mapped, stored_size, texts, with_index
from scaledl.data.prepare.items import SPLITS
from scaledl.data.prepare.store import hashes
from scaledl.data.stored import INPUTS, target_of
from scaledl.data.stream.inputs import with_features, with_tokens
from scaledl.data.stream.place import Place, build_stream, open_place
from scaledl.data.stream.split import Stream
from scaledl.data.table_features import features_of
from scaledl.data.tags import tags_of_tokens
from scaledl.data.text import cut_off, in_windows, text_spec, windowed
from scaledl.errors import UsageError
from scaledl.run.files import sha256_file
from scaledl.runtime.columns import TableColumn, order_of


def load_prepared(config: DataConfig) -> DataModule:
    """The set in `config.root`. Raises UsageError where there is none, or its files are not those it was made with."""
    if config.root is None:
        raise UsageError("data.root: missing; with data.source=prepared give the folder that `data prepare --out` made")
    place = open_place(config)
    document = place.document()
    _check_filled(place, document)
    return (_of_texts if document["modality"] == "text" else _of_values)(place, document, config)


def _of_values(place: Place, document: dict[str, Any], config: DataConfig) -> DataModule:
    parts = (INPUTS[document["modality"]], "labels", "ids")
    in_arrays, stream = _opened(place, document, config, parts)
    splits = {split: Arrays(*(mapped(place, split, part, document) for part in parts)) for split in in_arrays}
    table = document["modality"] == "table"
    columns = tuple(map(TableColumn.from_dict, document["columns"])) if table else ()
    codes = table and config.categories == "embed" and any(column.categories for column in columns)
    if table:
        splits = {split: _with_features(arrays, columns, codes=codes) for split, arrays in splits.items()}
    in_shape = in_shape_of(splits["val"].inputs)
    if stream is not None and any(column.categories for column in columns):
        stream = with_features(stream, columns, in_shape, codes=codes)
    mean, std = _statistics(document, columns, codes=codes)
    spec = DataSpec(
        source=place.name,
        in_shape=in_shape,
        labels=tuple(document["labels"]),
        mean=mean,
        std=std,
        fingerprint=document["fingerprint"],
        categories=tuple(len(column.categories) + 1 for column in columns if column.categories) if codes else (),
        columns=columns,
        **_target(document),
    )
    return DataModule(spec, stream or splits["train"], splits["val"], splits["test"])


def _opened(
    place: Place, document: dict[str, Any], config: DataConfig, parts: Sequence[str]
) -> tuple[list[str], Stream | None]:
    """The splits that are arrays, of which these parts stay open, and the training split where it is in shards."""
    streamed = "shards" in document["splits"]["train"]
    in_arrays = [split for split in SPLITS if not (streamed and split == "train")]
    size = sum(stored_size(split, part, document) for split in in_arrays for part in parts)
    if streamed:
        stream = build_stream(place, document, config, size)
        return in_arrays, with_index(stream, place, document)
    place.check((), 0, size)
    return in_arrays, None


def _target(document: dict[str, Any]) -> dict[str, Any]:
    """What a spec says of the targets."""
    scaled = {f"target_{name}": tuple(one[name] for one in document.get("targets", ())) for name in ("mean", "std")}
    classes = tuple(map(tuple, document.get("target_classes", ())))
    unlabeled = document.get("unlabeled", 0)
    return {"target": target_of(document), "target_classes": classes, "unlabeled": unlabeled, **scaled}


def _check_filled(place: Place, document: dict[str, Any]) -> None:
    empty = [split for split in SPLITS if not document["splits"][split]["rows"]]
    if empty:
        raise UsageError(
            f"data.source: {place.where} has nothing in its {' and '.join(empty)} split; fix: prepare it again with "
            f"{' and '.join(f'data.prepare.{split}_fraction above 0' for split in empty)}"
        )


def _of_texts(place: Place, document: dict[str, Any], config: DataConfig) -> DataModule:
    """Tokenised as `data.text` says: the set itself has texts."""
    in_arrays, stream = _opened(place, document, config, ("labels", "ids"))
    labels, ids = ({split: mapped(place, split, part, document) for split in in_arrays} for part in ("labels", "ids"))
    found = {split: texts(place, split, document) for split in in_arrays}
    target = target_of(document)
    if stream is not None:
        stream, tokenized = with_tokens(stream, found, config, target, document["fingerprint"])
    else:
        tokenized = (
            windowed(found, config.text) if in_windows(config.text, target) else cut_off(found, config.text, target)
        )
    if target == "tags":
        tokenizer, length = tokenized.tokenizer, tokenized.inputs["val"].shape[1]
        labels = {split: tags_of_tokens(tokenizer, found[split], labels[split], length) for split in in_arrays}
    splits = {split: tokenized.arrays(split, labels[split], ids[split]) for split in in_arrays}
    known = "" if stream is None else f"{document['fingerprint']}{config.text.stride if tokenized.has_windows else ''}"
    spec = text_spec(place.name, splits, tuple(document["labels"]), target, tokenized.tokenizer, known)
    spec = dataclasses.replace(spec, **_target(document))
    return DataModule(spec, stream or splits["train"], splits["val"], splits["test"], tokenized.note)


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
