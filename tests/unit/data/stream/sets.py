"""Small sets in shards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scaledl.config.schema import DataConfig, PrepareConfig, StreamConfig
from scaledl.data import DataSpec
from scaledl.data.prepare.run import prepare
from scaledl.data.stored import Form
from scaledl.data.stream.samples import Samples
from scaledl.data.stream.shard import ShardFile, write_shard
from scaledl.data.stream.split import Stream

SHAPE = (4, 5, 3)
LABELS = ("a", "b", "c")
SPEC = DataSpec("test", (3, 4, 5), LABELS, (0.4,) * 3, (0.3,) * 3, "")
FORM = Form.of({"modality": "image", "in_shape": [3, 4, 5], "labels": LABELS})


def write_stream(folder: Path, counts: Sequence[int], spread: int = 3, ahead: int = 2) -> Stream:
    """Shards of so many rows; a sample's id is 100 more than seven times its number, and its pixels are its own."""
    folder.mkdir(parents=True, exist_ok=True)
    files, first = [], 0
    for number, count in enumerate(counts):
        path = folder / f"train-{number:05d}.safetensors"
        rows = np.arange(first, first + count)
        images = np.stack([np.random.default_rng(row).integers(0, 256, SHAPE, dtype=np.uint8) for row in rows])
        with path.open("wb") as file:
            write_shard(file, FORM, {"ids": rows * 7 + 100, "labels": rows % 3, "images": images})
        files.append(ShardFile(path.name, count, path.stat().st_size, ""))
        first += count
    samples = Samples(FORM.field("images"), FORM.field("labels"))
    return Stream(files, FORM, samples, lambda file: (folder / file.name, None), spread, ahead)


def prepare_set(folder: Path, count: int = 400, side: int = 48, **settings: Any) -> dict[str, Any]:
    """A prepared set of noise in `folder/set`, in shards of a MB: 144 images each."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "source.npz"
    np.savez(source, x=rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8), y=np.arange(count) % 4)
    return prepare(source, folder / "set", PrepareConfig(**{"shard_mb": 1, "near_duplicates": "keep", **settings}))


def config_of(root: object, **stream: Any) -> DataConfig:
    return DataConfig(source="prepared", root=str(root), stream=StreamConfig(**stream))


def document_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "dataset.json").read_bytes())
    return found
