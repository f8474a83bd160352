"""Every kind of data set in shards: the samples, batches and figures of the same set in arrays."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.data.stream.kinds import AUGMENTS, LIMIT, SOURCES, Made, check_same_batches, data_of, prepare_both
from tests.unit.data.stream.sets import document_of

from scaledl.config.schema import AugmentConfig, PrepareConfig
from scaledl.data.prepare import shards
from scaledl.data.prepare.run import prepare
from scaledl.data.prepared import check_files
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The set of a name in several shards, and in arrays."""
    return cache(lambda name: prepare_both(tmp_path_factory.mktemp("kind"), name))


@pytest.mark.parametrize("name", SOURCES)
def test_batches_are_those_of_arrays(made: Made, name: str) -> None:
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
def test_workers_give_the_same_batches(made: Made, name: str) -> None:
    stream, arrays = map(data_of, made(name))
    check_same_batches(stream, arrays, AugmentConfig.model_validate(AUGMENTS[name]), num_workers=2)


def test_categories_as_codes(made: Made) -> None:
    stream, arrays = (data_of(folder, categories="embed") for folder in made("a table of classes"))
    assert stream.spec.categories == (4,)
    check_same_batches(stream, arrays, AugmentConfig())


@pytest.mark.parametrize("text", [{"tokenizer": "bpe", "vocabulary": 280}, {"tokenizer": "char"}, {"max_length": 4}])
@pytest.mark.parametrize("name", ["texts of nothing", "texts with tags"])
def test_tokenizers_are_those_of_arrays(made: Made, name: str, text: dict[str, Any]) -> None:
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
def test_windows_of_long_texts_are_those_of_arrays(made: Made, name: str, num_workers: int) -> None:
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


def test_windows_of_a_stream_are_resumed_exactly_on_other_ranks(made: Made) -> None:
    data = data_of(made("long texts of nothing")[0], text={"max_length": 12})
    first = [data.train_loader(16, AugmentConfig(), 5, rank=rank, world_size=2) for rank in range(2)]
    begun = [next(batches) for batches in map(iter, first) for _ in range(1)]
    later = [data.train_loader(10, AugmentConfig(), 5, rank=rank, world_size=3, num_workers=rank) for rank in range(3)]
    for one in later:
        one.load_state_dict(first[0].state_dict())
    seen = [id for batch in [*begun, *(batch for one in later for batch in one)] for id in batch.ids.tolist()]
    assert sorted(seen) == sorted(data.train.ids.tolist())


def test_windows_are_in_the_fingerprint_of_a_stream(made: Made) -> None:
    folder = made("long texts of nothing")[0]
    keys: list[dict[str, Any]] = [{}, {"max_length": 12}, {"max_length": 12, "stride": 5}, {"max_length": 4096}]
    marks = [data_of(folder, text=text).spec.fingerprint for text in (*keys, *keys)]
    assert marks[:4] == marks[4:]
    assert len(set(marks)) >= 3


def test_a_stream_that_cuts_texts_says_so(made: Made) -> None:
    stream, arrays = (data_of(folder, text={"max_length": 12}) for folder in made("long texts of classes"))
    assert "texts (the first of 86 for training) have more than 12 tokens and are cut there" in stream.note
    assert "of 86 training texts have more than 12 tokens" in arrays.note
    check_same_batches(stream, arrays, AugmentConfig())


def test_another_tokenizer_is_another_data_set(made: Made) -> None:
    folder = made("texts of classes")[0]
    marks = {data_of(folder, text=text).spec.fingerprint for text in ({}, {"tokenizer": "char"}, {})}
    assert len(marks) == 2


@pytest.mark.parametrize("name", SOURCES)
def test_shards_are_no_larger_than_asked_and_the_same_each_time(
    made: Made, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
def test_a_document_that_lies_about_texts(made: Made, tmp_path: Path, change: dict[str, Any]) -> None:
    shutil.copytree(made("texts of classes")[0], tmp_path / "set")
    document = document_of(tmp_path / "set")
    document["splits"]["train"]["shards"][0] |= change
    (tmp_path / "set/dataset.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match=r"dataset\.json: it says of a shard .*prepare it again"):
        data_of(tmp_path / "set")
