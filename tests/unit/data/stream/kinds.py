"""A source of every kind of data set, prepared in shards and in arrays."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scaledl.config.schema import AugmentConfig, DataConfig, PrepareConfig, StreamConfig
from scaledl.data import Arrays, DataModule, build_data
from scaledl.data.prepare import shards
from scaledl.data.prepare.run import prepare
from scaledl.data.stream.split import Stream

Made = Callable[[str], tuple[Path, Path]]
COUNT = 120
LIMIT = 1500  # bytes of a shard
Source = Callable[[Path], tuple[Path, dict[str, Any]]]


def npz(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], **settings: Any) -> Source:
    def write(folder: Path) -> tuple[Path, dict[str, Any]]:
        np.savez(folder / "source.npz", x=x, y=y)
        return folder / "source.npz", {"near_duplicates": "keep", **settings}

    return write


def table(**settings: Any) -> Source:
    def write(folder: Path) -> tuple[Path, dict[str, Any]]:
        rng = np.random.default_rng(0)
        with (folder / "source.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["size", "colour", "weight", "price", "age", "label"])
            for i in range(COUNT):
                a, b, c, d = rng.normal(size=4).round(4)
                writer.writerow([a, ["red", "blue", "green"][i % 3], b, c, d, "yes" if a > 0 else "no"])
        return folder / "source.csv", settings

    return write


def series(longer: int) -> Source:
    """Two channels of 9 steps, or of up to so many more."""

    def write(folder: Path) -> tuple[Path, dict[str, Any]]:
        rng = np.random.default_rng(0)
        lines = ["@timeStamps false", "@dimensions 2", "@classLabel true a b", "@data"]
        for i in range(COUNT):
            values = rng.normal(size=(2, 9 + i % (longer + 1))).round(3)
            lines.append(":".join([",".join(map(str, row)) for row in values] + ["ab"[i % 2]]))
        (folder / "source.ts").write_text("\n".join(lines) + "\n")
        return folder / "source.ts", {}

    return write


def words(i: int) -> list[str]:
    rng = np.random.default_rng(i)
    return [("cat dog fish bird Ünder é-" + "x" * (k % 5)).split()[k % 6] for k in rng.integers(0, 60, 3 + i % 11)]


def texts(**settings: Any) -> Source:
    def write(folder: Path) -> tuple[Path, dict[str, Any]]:
        with (folder / "source.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for i in range(COUNT):
                writer.writerow([f"{' '.join(words(i))} {i}", "ab"[i % 2]])
        return folder / "source.csv", {"text": "text", "kind": "text", "near_duplicates": "keep", **settings}

    return write


def long_texts(**settings: Any) -> Source:
    """Of up to 150 words, many of which are several windows."""

    def write(folder: Path) -> tuple[Path, dict[str, Any]]:
        rows = [{"text": " ".join(words(i) * (1 + i % 13)) + f" {i}", "label": "ab"[i % 2]} for i in range(COUNT)]
        (folder / "source.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return folder / "source.jsonl", {"text": "text", "near_duplicates": "keep", **settings}

    return write


def tagged(folder: Path) -> tuple[Path, dict[str, Any]]:
    lines = []
    for i in range(COUNT):
        lines += [f"{word} {'NAME' if word[0] in 'cd' else 'O'}" for word in [*words(i), f"n{i}"]] + [""]
    (folder / "source.conll").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "source.conll", {"near_duplicates": "keep"}


def pixels(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).integers(0, 256, (COUNT, *shape), dtype=np.uint8)


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(2).normal(size=(COUNT, *shape)).astype(np.float32)


NUMBERS = np.arange(COUNT)
MASKS = np.random.default_rng(3).integers(-1, 3, (COUNT, 8, 8))
SOURCES: dict[str, Source] = {
    "images of uneven classes": npz(pixels(8, 8, 3), np.minimum(NUMBERS % 10, 2)),
    "images of which some have a class": npz(pixels(8, 8, 3), NUMBERS % 4 - 1, target="class", unlabeled="keep"),
    "images of classes": npz(pixels(8, 8, 3), NUMBERS % 3),
    "images of one number": npz(pixels(8, 8, 3), floats(1)),
    "images of numbers": npz(pixels(8, 8, 3), floats(3)),
    "images of several classes": npz(
        pixels(8, 8, 3), np.stack([NUMBERS % 2, NUMBERS % 3 == 0, NUMBERS % 5 < 2], 1) * 1
    ),
    "images with masks": npz(pixels(8, 8, 3), MASKS),
    "a table of classes": table(exclude=["price", "age"]),
    "a table of numbers": table(targets=["price", "age"], exclude=["label"]),
    "a table of nothing": table(target="none", exclude=["label"]),
    "series of one length": series(0),
    "series of other lengths": series(6),
    "series with tags": npz(floats(2, 16), np.random.default_rng(4).integers(-1, 3, (COUNT, 16))),
    "texts of classes": texts(),
    "texts of nothing": texts(target="none"),
    "texts with tags": tagged,
    "long texts of nothing": long_texts(target="none"),
    "long texts of classes": long_texts(),
}
AUGMENTS: dict[str, dict[str, Any]] = {
    "images of classes": {"crop": 1, "flip": True, "brightness": 0.2, "cutout": 0.3},
    "images with masks": {"crop": 1, "flip": True, "rotation": 10},
    "series of other lengths": {"series": {"noise": 0.1, "warp": 0.2}},
    "texts of classes": {"text": {"drop": 0.2, "mask": 0.1}},
    "texts with tags": {"text": {"mask": 0.2}},
}


def prepare_both(folder: Path, name: str) -> tuple[Path, Path]:
    """The set of a name in several shards, and in arrays."""
    source, settings = SOURCES[name](folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "_MB", LIMIT)
        prepare(source, folder / "shards", PrepareConfig(shard_mb=1, **settings))
    prepare(source, folder / "arrays", PrepareConfig(**settings))
    return folder / "shards", folder / "arrays"


def data_of(folder: Path, **changes: Any) -> DataModule:
    stream = StreamConfig(window_shards=2, prefetch_shards=1, cache=str(folder.parent / "cache"))
    return build_data(DataConfig(source="prepared", root=str(folder), stream=stream, **changes), seed=0)


def check_same_batches(stream: DataModule, arrays: DataModule, augment: AugmentConfig, num_workers: int = 0) -> None:
    """Of two epochs, given the order of the stream."""
    assert isinstance(stream.train, Stream)
    assert isinstance(arrays.train, Arrays)
    places = {id: place for place, id in enumerate(arrays.train.ids.tolist())}
    ours = stream.train_loader(16, augment, 5, num_workers=num_workers)
    theirs = arrays.train_loader(16, augment, 5)
    for epoch in range(2):
        seen: list[int] = []
        for batch in ours:
            expected = theirs.batch(torch.tensor([places[id] for id in batch.ids.tolist()]), epoch)  # type: ignore[union-attr]
            for part, other in zip(batch, expected, strict=True):
                assert part.dtype == other.dtype
                assert torch.equal(part, other)
            seen += batch.ids.tolist()
        assert sorted(seen) == sorted(places)
