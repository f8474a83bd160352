"""Who goes to which split, where the source does not say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scaledl.config.schema import PrepareConfig
from scaledl.data.arrays import NO_CLASS
from scaledl.data.hashing import SPLIT, generator
from scaledl.data.prepare.clean import clusters
from scaledl.data.prepare.items import SPLITS, Item
from scaledl.data.split import plain_split, stratified_split
from scaledl.errors import UsageError

_KEY = "data.prepare"


def split_items(
    labels: NDArray[np.int64],
    given: Sequence[str],
    groups: NDArray[np.int64],
    names: tuple[str, ...],
    config: PrepareConfig,
) -> NDArray[np.str_]:
    """The split of each item. Splits that the source has stay; others are cut from its training items, stratified.

    Args:
        labels: int64 [N]; NO_CLASS where there is none, which only follows its group out of the training split.
        given: what the source says of each, or empty.
        groups: int64 [N], the first member of each one's group; a group stays together.
        names: of the classes.

    Raises:
        UsageError: a class has too few items for it.
    """
    splits = np.array([split or "train" for split in given], dtype="U5")
    for split, fraction in (("test", config.test_fraction), ("val", config.val_fraction)):
        if split in splits or fraction == 0:
            continue
        # One stands for its group: the others follow.
        labelled = np.flatnonzero((splits == "train") & (labels != NO_CLASS))
        candidates = labelled[np.sort(np.unique(groups[labelled], return_index=True)[1])]
        _check_likeness(labels[labelled], labels[candidates], names)
        key = f"{_KEY}.{split}_fraction"
        if len(names) > 1:
            _, held = stratified_split(torch.from_numpy(labels[candidates]), fraction, config.seed, names, key=key)
        else:  # nothing to stratify by
            _, held = plain_split(len(candidates), fraction, config.seed, key=key)
        splits[np.isin(groups, groups[candidates[held.numpy()]]) & (splits == "train")] = split
    _check_classes(labels, splits, names)
    return splits


def _check_likeness(labels: NDArray[np.int64], representatives: NDArray[np.int64], names: tuple[str, ...]) -> None:
    """Raises UsageError for a class that has items enough, but all of them look the same."""
    items, kinds = (np.bincount(found, minlength=len(names)) for found in (labels, representatives))
    alike = np.flatnonzero((items > 1) & (kinds < 2))
    if len(alike):
        raise UsageError(
            f"{_KEY}.near_duplicates: {names[alike[0]]!r} has {items[alike[0]]} items that look the same, and "
            "such stay in one split; fix: keep (they may then be in several), or other items"
        )


def counts(splits: NDArray[np.str_]) -> dict[str, int]:
    return {split: int((splits == split).sum()) for split in SPLITS}


def split_rows(
    labels: NDArray[np.int64],
    items: Sequence[Item],
    alike: NDArray[np.int64],
    names: tuple[str, ...],
    config: PrepareConfig,
) -> NDArray[np.str_]:
    """As `split_items`, or by the items' times or groups where they have such.

    Args:
        alike: int64 [N], the first member of each one's group of items that are nearly the same.

    Raises UsageError where that cannot be done, or where a class has nothing to train on.
    """
    given = [item.split for item in items]
    _check_classes(labels, np.array([split or "train" for split in given]), names)
    timed, grouped = (any(getattr(item, name) is not None for item in items) for name in ("time", "group"))
    if timed and grouped:
        raise UsageError(f"{_KEY}.time: the items have times and groups; allowed: one of them")
    if timed:
        splits = _by_time(np.array([item.time for item in items], np.float64), labels != NO_CLASS, given, config)
    elif grouped:
        splits = _by_group(labels, [str(item.group) for item in items], alike, given, config)
    else:
        splits = split_items(labels, given, alike, names, config)
    _check_classes(labels, splits, names)
    return splits


def _by_time(
    times: NDArray[np.float64], labelled: NDArray[np.bool_], given: Sequence[str], config: PrepareConfig
) -> NDArray[np.str_]:
    """The last part of what has a label is test, the part before it val; equal times stay together."""
    splits = np.array([split or "train" for split in given], dtype="U5")
    for split, fraction in (("test", config.test_fraction), ("val", config.val_fraction)):
        if split in splits or fraction == 0:
            continue
        training = (splits == "train") & labelled
        mine = times[training]
        count = max(round(len(mine) * fraction), 1)
        cut = np.sort(mine)[-count]
        sides = [held for held in (times >= cut, times > cut) if 0 < (held & training).sum() < len(mine)]
        if not sides:
            raise UsageError(
                f"{_KEY}.time: {len(mine)} items at {len(np.unique(mine))} different times; allowed: enough of them to "
                f"cut the {split} split off"
            )
        held = min(sides, key=lambda side: abs(int((side & training).sum()) - count))
        splits[held & (splits == "train")] = split
    return splits


def _by_group(
    labels: NDArray[np.int64],
    groups: Sequence[str],
    alike: NDArray[np.int64],
    given: Sequence[str],
    config: PrepareConfig,
) -> NDArray[np.str_]:
    """Whole groups, so that every class has about its share on either side. Groups with alike items are one."""
    splits = np.array([split or "train" for split in given], dtype="U5")
    _check_groups(groups, splits)
    names, first, member = np.unique(np.array(groups), return_index=True, return_inverse=True)
    places = np.arange(len(groups))
    ties = [
        *zip(first[member].tolist(), places.tolist(), strict=True),
        *zip(alike.tolist(), places.tolist(), strict=True),
    ]
    number = clusters(len(groups), ties)
    for split, fraction in (("test", config.test_fraction), ("val", config.val_fraction)):
        if split not in splits and fraction > 0:
            rows = np.flatnonzero((splits == "train") & (labels != NO_CLASS))
            held = _held_groups(labels, number, rows, fraction, config.seed)
            if not held:
                raise UsageError(
                    f"{_KEY}.group: {len(names)} groups are too few to hold out a {split} split of {fraction:g} and "
                    f"keep something of every class to train on; fix: {_KEY}.{split}_fraction=0, or more groups"
                )
            splits[np.isin(number, held) & (splits == "train")] = split
    return splits


def _held_groups(
    labels: NDArray[np.int64], groups: NDArray[np.int64], rows: NDArray[np.int64], fraction: float, seed: int
) -> list[int]:
    """Groups in random order, each taken where that brings the classes' counts nearer to their share."""
    classes = int(labels.max()) + 1
    total = np.bincount(labels[rows], minlength=classes)
    members = _members(groups, rows)
    held, count = [], np.zeros(classes, np.int64)
    for place in torch.randperm(len(members), generator=generator(seed, SPLIT)).tolist():
        more = np.bincount(labels[members[place]], minlength=classes)
        keeps_all = ((total - count - more)[total > 0] > 0).all()
        if keeps_all and _distance(count + more, total * fraction) < _distance(count, total * fraction):
            held.append(int(groups[members[place][0]]))
            count += more
    return held


def _members(groups: NDArray[np.int64], rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows of each group, in the order of the groups' numbers."""
    order = rows[np.argsort(groups[rows], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)


def _distance(counts: NDArray[np.int64], wanted: NDArray[Any]) -> float:
    return float(((counts - wanted) ** 2).sum())


def _check_groups(groups: Sequence[str], splits: NDArray[np.str_]) -> None:
    first: dict[str, str] = {}
    for group, split in zip(groups, splits.tolist(), strict=True):
        if first.setdefault(group, split) != split:
            raise UsageError(
                f"{_KEY}.group: got {group!r} in the source's {first[group]} and {split} splits; "
                "allowed: in one of them"
            )


def _check_classes(labels: NDArray[np.int64], splits: NDArray[np.str_], names: tuple[str, ...]) -> None:
    absent = sorted(set(np.unique(labels).tolist()) - {*labels[splits == "train"].tolist(), NO_CLASS})
    if absent:
        where = " and ".join(split for split in SPLITS if np.isin(labels[splits == split], absent).any())
        raise UsageError(
            f"classes {', '.join(repr(names[label]) for label in absent[:5])} are in {where} but not in train; "
            "fix: give every class training items, or remove it everywhere"
        )
