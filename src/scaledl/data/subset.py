"""Some classes of a data set, and so many training samples of each."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from scaledl.config.nearest import nearest
from scaledl.config.schema import DataConfig
from scaledl.data.arrays import NO_CLASS, Arrays, RawData
from scaledl.data.hashing import SUBSET, generator
from scaledl.data.stream.split import Stream
from scaledl.errors import UsageError


def subset(raw: RawData, config: DataConfig, seed: int) -> RawData:
    """The samples of `data.classes`, in whose order they are counted anew, and `data.limit` of each for training.

    Which samples stay is drawn by `seed`. The test set keeps all of its classes.

    Raises UsageError for classes that the set does not have, or fewer than two.
    """
    if not config.classes and config.limit is None:
        return raw
    check_classes(raw.target, config)
    names = tuple(config.classes) or raw.label_names
    train = _narrowed(raw.inputs, raw.labels, raw.label_names, names, config.limit, seed)
    test = _narrowed(raw.test_inputs, raw.test_labels, raw.label_names, names, None, seed)
    if raw.val_inputs is not None and raw.val_labels is not None:
        val = _narrowed(raw.val_inputs, raw.val_labels, raw.label_names, names, None, seed)
        raw = dataclasses.replace(raw, val_inputs=val[0], val_labels=val[1])
    if raw.lengths is not None:
        numbers = _numbers(names, raw.label_names)
        rows = _rows(raw.labels, numbers, config.limit, seed, unlabeled=len(names) == len(raw.label_names))
        raw = dataclasses.replace(raw, lengths=raw.lengths[rows])
    return dataclasses.replace(
        raw, inputs=train[0], labels=train[1], test_inputs=test[0], test_labels=test[1], label_names=names
    )


def check_classes(target: str, config: DataConfig) -> None:
    """Refuse `data.classes` and `data.limit` where samples have no class. Raises UsageError."""
    if target != "class":
        key = "data.classes" if config.classes else "data.limit"
        raise UsageError(
            f"{key}: set, and the targets of data.source {config.source} are {target!r}; allowed: with samples that "
            "each have one class"
        )


def narrow(
    split: Arrays, known: tuple[str, ...], names: tuple[str, ...], limit: int | None = None, seed: int = 0
) -> Arrays:
    """The same of one split, whose samples keep their ids."""
    numbers = _numbers(names, known)
    rows = _rows(split.labels, numbers, limit, seed, unlabeled=len(names) == len(known))
    found = split.take(rows)
    return dataclasses.replace(found, labels=_counted_anew(found.labels, numbers))


def narrow_stream(
    stream: Stream, known: tuple[str, ...], names: tuple[str, ...], limit: int | None, seed: int
) -> Stream:
    """The same of a training split in shards: the samples that are drawn of arrays.

    Raises UsageError where what is left lies in too many shards for the cache.
    """
    numbers = _numbers(names, known)
    rows = _rows(stream.labels[stream.by_id], numbers, limit, seed, unlabeled=len(names) == len(known))
    places = stream.by_id[rows].sort().values
    return stream.keeping(places, _counted_anew(stream.labels[places], numbers), _places(numbers))


def _narrowed(
    inputs: Tensor, labels: Tensor, known: tuple[str, ...], names: tuple[str, ...], limit: int | None, seed: int
) -> tuple[Tensor, Tensor]:
    numbers = _numbers(names, known)
    rows = _rows(labels, numbers, limit, seed, unlabeled=len(names) == len(known))
    return inputs[rows], _counted_anew(labels[rows], numbers)


def _rows(labels: Tensor, numbers: list[int], limit: int | None, seed: int, *, unlabeled: bool) -> Tensor:
    """Indices of the samples, int64, ascending: of each class all, or `limit` that `seed` draws.

    `unlabeled`: with all those that have none, which may be of any class.
    """
    found = [(labels == NO_CLASS).nonzero().flatten()] if unlabeled else []
    for number in numbers:
        rows = (labels == number).nonzero().flatten()
        if limit is not None:
            rows = rows[torch.randperm(len(rows), generator=generator(seed, number, SUBSET))[:limit]]
        found.append(rows)
    return torch.cat(found).sort().values


def _counted_anew(labels: Tensor, numbers: list[int]) -> Tensor:
    return _places(numbers)[labels]


def _places(numbers: list[int]) -> Tensor:
    """Of labels up to the largest of these what they become, int64; the last one is that of NO_CLASS."""
    places = torch.full((max(numbers) + 2,), NO_CLASS)
    places[torch.tensor(numbers)] = torch.arange(len(numbers))
    return places


def _numbers(names: tuple[str, ...], known: tuple[str, ...]) -> list[int]:
    for name in names:
        if name not in known:
            close = nearest(name, known)
            hint = f"; did you mean {close!r}?" if close else ""
            raise UsageError(f"data.classes: got {name!r}; allowed: {', '.join(known[:20])}{hint}")
    if len(set(names)) < max(2, len(names)):
        raise UsageError(f"data.classes: got {', '.join(names)}; allowed: two classes or more, each once")
    return [known.index(name) for name in names]
