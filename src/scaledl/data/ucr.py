"""A set of the UCR and UEA archives of time series, in its own train and test split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from scaledl.config.schema import DataConfig, PrepareConfig
from scaledl.data.arrays import RawData
from scaledl.data.prepare.items import Item
from scaledl.data.prepare.series import collect_series
from scaledl.data.prepare.targets import labelled
from scaledl.errors import UsageError

ARCHIVE = "https://timeseriesclassification.com"


def load_ucr(config: DataConfig) -> RawData:
    """Series float32 [N, C, T] of the set in the folder `data.root`, zeros behind shorter ones.

    Raises UsageError: no such files, files that are damaged, series that cannot be used as they are, no test split.
    """
    folder = _folder(config)
    collected = collect_series(folder, PrepareConfig())
    found = labelled(collected, PrepareConfig())
    items, dropped = found.items, [*collected.dropped, *found.dropped]
    if dropped:
        raise UsageError(
            f"{folder}: {len(dropped)} series cannot be used, the first: {dropped[0].key}: {dropped[0].reason}; "
            f"fix: leave them out with: scaledl data prepare {folder} --out FOLDER, and data.source=FOLDER"
        )
    parts = {split: [item for item in items if item.split == split] for split in ("train", "test")}
    if not all(parts.values()) or sum(map(len, parts.values())) < len(items):
        raise UsageError(
            f"{folder}: needs NAME_TRAIN and NAME_TEST, and no others; fix: scaledl data prepare {folder} --out FOLDER"
        )
    names = found.names(items)
    steps = max(len(item.content[0]) for item in items)
    inputs = {split: _padded(mine, steps) for split, mine in parts.items()}
    labels = {split: torch.from_numpy(found.array(mine, names)) for split, mine in parts.items()}
    lengths = torch.tensor([len(item.content[0]) for item in parts["train"]])
    return RawData(
        inputs["train"], labels["train"], inputs["test"], labels["test"], names, found.target, lengths=lengths
    )


def _folder(config: DataConfig) -> Path:
    if config.root is None:
        raise UsageError(
            "data.root: missing; with data.source=ucr give the folder of one set, with NAME_TRAIN.ts and NAME_TEST.ts "
            f"in it (download it from {ARCHIVE})"
        )
    folder = Path(config.root).expanduser()
    if not folder.exists():
        raise UsageError(f"data.root: got {folder}, which does not exist; fix: download the set from {ARCHIVE}")
    return folder


def _padded(items: Sequence[Item], steps: int) -> Tensor:
    result = torch.zeros(len(items), len(items[0].content), steps)
    for row, item in zip(result, items, strict=True):
        for channel, values in zip(row, item.content, strict=True):
            channel[: len(values)] = torch.from_numpy(values)
    return result
