"""Data that the processes of a machine have in common: one copy in memory, mapped by all of them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scaledl.config.schema import DataConfig
from scaledl.data.arrays import Arrays, DataSpec
from scaledl.data.datamodule import DataModule, build_data
from scaledl.run.files import atomic_json

FOLDER = "SCALEDL_NODE_DIR"  # private to a job and a node; whoever sets it removes the folder
_SPLITS = ("train", "val", "test")
_PARTS = ("inputs", "labels", "ids")


def shared_data(config: DataConfig, seed: int) -> DataModule:
    """As `build_data`; where the environment names a folder, the first process to come writes the arrays there.

    All processes map the same pages. They must not write to the tensors; what is written stays the process's own.
    """
    folder = os.environ.get(FOLDER)
    if not folder or config.source == "prepared":  # which is mapped from its own files
        return build_data(config, seed)
    key = hashlib.sha256(json.dumps([config.samples(), seed], sort_keys=True).encode()).hexdigest()[:16]
    place = Path(folder) / f"data-{key}"
    with _alone(place):
        if not (place / "spec.json").exists():
            _write(build_data(config, seed), place)
    return _read(place)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    place.mkdir(parents=True, exist_ok=True)
    with (place / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(data: DataModule, place: Path) -> None:
    strides = {}
    for split in _SPLITS:
        for part in _PARTS:
            values: Tensor = getattr(getattr(data, split), part)
            if _overlaps(values):  # windows of one text, which would take many times the text
                strides[f"{split}-{part}"] = [*values.shape, values.stride(0)]
                values = values.as_strided(((len(values) - 1) * values.stride(0) + values.shape[1],), (1,))
            np.save(place / f"{split}-{part}.npy", values.contiguous().numpy())
    atomic_json(place / "strides.json", strides)
    atomic_json(place / "spec.json", data.spec.to_dict())


def _overlaps(values: Tensor) -> bool:
    return values.ndim == 2 and values.stride(1) == 1 and 0 < values.stride(0) < values.shape[1]


def _read(place: Path) -> DataModule:
    spec = DataSpec.from_dict(json.loads((place / "spec.json").read_bytes()))
    strides = json.loads((place / "strides.json").read_bytes())
    splits = {split: Arrays(*(_mapped(place, f"{split}-{part}", strides) for part in _PARTS)) for split in _SPLITS}
    return DataModule(spec, splits["train"], splits["val"], splits["test"])


def _mapped(place: Path, name: str, strides: dict[str, list[int]]) -> Tensor:
    # Copy on write: torch knows no read-only tensors, and pages that are only read stay shared.
    values = torch.from_numpy(np.load(place / f"{name}.npy", mmap_mode="c"))
    if name not in strides:
        return values
    count, length, stride = strides[name]
    return values.as_strided((count, length), (stride, 1))
