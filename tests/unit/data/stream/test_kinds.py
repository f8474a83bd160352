"""Every kind of data set in shards: the samples, batches and figures of the same set in arrays."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.data.stream.sets import document_of

from scaledl.config.schema import AugmentConfig, DataConfig, PrepareConfig, StreamConfig
from scaledl.data import Arrays, DataModule, build_data
from scaledl.data.prepare import shards
from scaledl.data.prepare.run import prepare
from scaledl.data.prepared import check_files
from scaledl.data.stream.split import Stream
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

COUNT = 120
LIMIT = 1500  # bytes of a shard
Source = Callable[[Path], tuple[Path, dict[str, Any]]]


def npz(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> Source:
    def write(folder: Path) -> tuple[Path, dict[str, Any]]:
        np.savez(folder / "source.npz", x=x, y=y)
        return folder / "source.npz", {"near_duplicates": "keep"}

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


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """The set of a name in several shards, and in arrays."""
    known: dict[str, tuple[Path, Path]] = {}

    def make(name: str) -> tuple[Path, Path]:
        if name not in known:
            folder = tmp_path_factory.mktemp("kind")
            source, settings = SOURCES[name](folder)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(shards, "_MB", LIMIT)
                prepare(source, folder / "shards", PrepareConfig(shard_mb=1, **settings))
            prepare(source, folder / "arrays", PrepareConfig(**settings))
            known[name] = folder / "shards", folder / "arrays"
        return known[name]

    return make


def data_of(folder: Path, **changes: Any) -> DataModule:
    stream = StreamConfig(window_shards=2, prefetch_shards=1)
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


@pytest.mark.parametrize("name", SOURCES)
def test_batches_are_those_of_arrays(made: Callable[[str], tuple[Path, Path]], name: str) -> None:
    stream, arrays = map(data_of, made(name))
    about = document_of(made(name)[0])["splits"]["train"]
    assert len(about["shards"]) > 1
    assert {"train-labels.npy", "train-ids.npy"}.isdisjoint(path.name for path in made(name)[0].iterdir())
    assert stream.class_counts() == arrays.class_counts()
    ours, theirs = stream.spec.to_dict(), arrays.spec.to_dict()
    assert {key for key in ours if ours[key] != theirs[key]} == {"source", "fingerprint"}
    for split in ("val", "test"):
        for part in ("inputs", "labels", "ids"):
            assert torch.equal(getattr(getattr(stream, split), part), getattr(getattr(arrays, split), part))
    for augment in (AugmentConfig(), AugmentConfig.model_validate(AUGMENTS.get(name, {}))):
        check_same_batches(stream, arrays, augment)


@pytest.mark.parametrize("name", ["images with masks", "texts with tags"])
def test_workers_give_the_same_batches(made: Callable[[str], tuple[Path, Path]], name: str) -> None:
    stream, arrays = map(data_of, made(name))
    check_same_batches(stream, arrays, AugmentConfig.model_validate(AUGMENTS[name]), num_workers=2)


def test_categories_as_codes(made: Callable[[str], tuple[Path, Path]]) -> None:
    stream, arrays = (data_of(folder, categories="embed") for folder in made("a table of classes"))
    assert stream.spec.categories == (4,)
    check_same_batches(stream, arrays, AugmentConfig())


@pytest.mark.parametrize("text", [{"tokenizer": "bpe", "vocabulary": 280}, {"tokenizer": "char"}, {"max_length": 4}])
@pytest.mark.parametrize("name", ["texts of nothing", "texts with tags"])
def test_tokenizers_are_those_of_arrays(
    made: Callable[[str], tuple[Path, Path]], name: str, text: dict[str, Any]
) -> None:
    stream, arrays = (data_of(folder, text=text) for folder in made(name))
    assert stream.spec.tokenizer == arrays.spec.tokenizer
    assert stream.spec.in_shape == arrays.spec.in_shape
    assert stream.class_counts() == arrays.class_counts()
    check_same_batches(stream, arrays, AugmentConfig())


WINDOWS: dict[str, dict[str, Any]] = {
    "long texts of nothing": {"max_length": 12},
    "long texts of classes": {"max_length": 12, "overlong": "windows", "stride": 5},
}


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("name", WINDOWS)
def test_windows_of_long_texts_are_those_of_arrays(
    made: Callable[[str], tuple[Path, Path]], name: str, num_workers: int
) -> None:
    stream, arrays = (data_of(folder, text=WINDOWS[name]) for folder in made(name))
    assert len(stream.train) == len(arrays.train) > len(data_of(made(name)[0]).train)
    assert stream.spec.in_shape == arrays.spec.in_shape == (12,)
    assert stream.note == arrays.note
    assert "become windows" in stream.note
    assert stream.class_counts() == arrays.class_counts()
    for part in ("inputs", "labels", "ids"):
        assert torch.equal(getattr(stream.val, part), getattr(arrays.val, part))
    check_same_batches(stream, arrays, AugmentConfig(), num_workers)
    check_same_batches(stream, arrays, AugmentConfig.model_validate({"text": {"mask": 0.2}}), num_workers)


def test_windows_of_a_stream_are_resumed_exactly_on_other_ranks(made: Callable[[str], tuple[Path, Path]]) -> None:
    data = data_of(made("long texts of nothing")[0], text={"max_length": 12})
    first = [data.train_loader(16, AugmentConfig(), 5, rank=rank, world_size=2) for rank in range(2)]
    begun = [next(batches) for batches in map(iter, first) for _ in range(1)]
    later = [data.train_loader(10, AugmentConfig(), 5, rank=rank, world_size=3, num_workers=rank) for rank in range(3)]
    for one in later:
        one.load_state_dict(first[0].state_dict())
    seen = [id for batch in [*begun, *(batch for one in later for batch in one)] for id in batch.ids.tolist()]
    assert sorted(seen) == sorted(data.train.ids.tolist())


def test_windows_are_in_the_fingerprint_of_a_stream(made: Callable[[str], tuple[Path, Path]]) -> None:
    folder = made("long texts of nothing")[0]
    keys: list[dict[str, Any]] = [{}, {"max_length": 12}, {"max_length": 12, "stride": 5}, {"max_length": 4096}]
    marks = [data_of(folder, text=text).spec.fingerprint for text in (*keys, *keys)]
    assert marks[:4] == marks[4:]
    assert len(set(marks)) >= 3


def test_a_stream_that_cuts_texts_says_so(made: Callable[[str], tuple[Path, Path]]) -> None:
    stream, arrays = (data_of(folder, text={"max_length": 12}) for folder in made("long texts of classes"))
    assert "texts (the first of 86 for training) have more than 12 tokens and are cut there" in stream.note
    assert "of 86 training texts have more than 12 tokens" in arrays.note
    check_same_batches(stream, arrays, AugmentConfig())


def test_another_tokenizer_is_another_data_set(made: Callable[[str], tuple[Path, Path]]) -> None:
    folder = made("texts of classes")[0]
    marks = {data_of(folder, text=text).spec.fingerprint for text in ({}, {"tokenizer": "char"}, {})}
    assert len(marks) == 2


@pytest.mark.parametrize("name", SOURCES)
def test_shards_are_no_larger_than_asked_and_the_same_each_time(
    made: Callable[[str], tuple[Path, Path]], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(name)[0]
    source, settings = SOURCES[name](tmp_path)
    monkeypatch.setattr(shards, "_MB", LIMIT)
    prepare(source, tmp_path / "set", PrepareConfig(shard_mb=1, **settings))
    first, again = document_of(folder), document_of(tmp_path / "set")
    assert first["splits"] == again["splits"]
    assert check_files(folder, first) == []
    for shard in first["splits"]["train"]["shards"]:
        assert shard["bytes"] - 400 <= LIMIT  # of which the header takes some


DAMAGE: dict[str, tuple[str, int, str]] = {
    "offsets": ("offsets", 8, "its texts do not lie where it says"),
    "texts": ("bytes", 0, "holds a text that is no UTF-8"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_texts_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    source, settings = SOURCES["texts of classes"](tmp_path)
    monkeypatch.setattr(shards, "_MB", LIMIT)
    prepare(source, tmp_path / "set", PrepareConfig(shard_mb=1, **settings))
    path = tmp_path / "set/train-00000.safetensors"
    part, place, words = DAMAGE[what]
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    data[8 + size + header[part]["data_offsets"][0] + place] = 0xFF
    path.write_bytes(data)
    with pytest.raises(UsageError, match=rf"train-00000\.safetensors: {words}.*fix:"):
        data_of(tmp_path / "set")


@pytest.mark.parametrize("change", [{"content": -1}, {"content": 10**9}, {"content": "5"}, {"rows": 1}, {"bytes": 1}])
def test_a_document_that_lies_about_texts(
    made: Callable[[str], tuple[Path, Path]], tmp_path: Path, change: dict[str, Any]
) -> None:
    shutil.copytree(made("texts of classes")[0], tmp_path / "set")
    document = document_of(tmp_path / "set")
    document["splits"]["train"]["shards"][0] |= change
    (tmp_path / "set/dataset.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match=r"dataset\.json: it says of a shard .*prepare it again"):
        data_of(tmp_path / "set")
