"""Some classes, some samples of each, every class equally often, and two views: of shards what they are of arrays."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.data.stream.kinds import Made, check_same_batches, data_of, prepare_both
from tests.unit.data.stream.sets import document_of

from scaledl.config.schema import AugmentConfig
from scaledl.data import Batch, DataModule
from scaledl.data.position import PositionedLoader
from scaledl.data.stream.reader import Reader
from scaledl.data.stream.split import Stream
from scaledl.errors import UsageError
from scaledl.tasks.views import paired_loader

pytestmark = pytest.mark.unit

AUGMENT = AugmentConfig.model_validate({"crop": 1, "flip": True, "brightness": 0.2})
CHOICES: dict[str, dict[str, Any]] = {
    "a few of each class": {"limit": 5},
    "two classes in another order": {"classes": ["2", "0"]},
    "a few of two classes": {"classes": ["1", "0"], "limit": 7},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The set of a name in several shards, and in arrays."""
    return cache(lambda name: prepare_both(tmp_path_factory.mktemp("kind"), name))


def both(made: Made, name: str, **keys: Any) -> tuple[DataModule, DataModule]:
    stream, arrays = (data_of(folder, **keys) for folder in made(name))
    return stream, arrays


def check_same_choice(stream: DataModule, arrays: DataModule) -> None:
    assert isinstance(stream.train, Stream)
    order = stream.train.by_id
    assert torch.equal(stream.train.ids[order], arrays.train.ids)
    assert torch.equal(stream.train.labels[order], arrays.train.labels)
    assert stream.class_counts() == arrays.class_counts()
    assert (stream.spec.labels, stream.spec.unlabeled) == (arrays.spec.labels, arrays.spec.unlabeled)
    for split in ("val", "test"):
        assert torch.equal(getattr(stream, split).ids, getattr(arrays, split).ids)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_is_chosen_is_what_is_chosen_of_arrays(made: Made, choice: str, num_workers: int) -> None:
    stream, arrays = both(made, "images of classes", **CHOICES[choice])
    assert len(stream.train) < len(data_of(made("images of classes")[0]).train)
    check_same_choice(stream, arrays)
    check_same_batches(stream, arrays, AUGMENT, num_workers)
    check_same_batches(stream, arrays, AugmentConfig())


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("a table of classes", {"limit": 9}),
        ("a table of classes", {"limit": 9, "categories": "embed"}),
        ("series of other lengths", {"classes": ["b", "a"]}),
        ("texts of classes", {"classes": ["b", "a"], "limit": 9}),
        ("long texts of classes", {"limit": 30, "text": {"max_length": 12, "overlong": "windows"}}),
        ("images of which some have a class", {"limit": 5}),
        ("images of which some have a class", {"classes": ["2", "0"]}),
    ],
)
def test_samples_of_other_kinds_are_chosen(made: Made, name: str, keys: dict[str, Any]) -> None:
    stream, arrays = both(made, name, **keys)
    check_same_choice(stream, arrays)
    check_same_batches(stream, arrays, AugmentConfig())


def test_no_shard_is_read_to_choose(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Stream, number: int) -> None:
        raise AssertionError("a shard was opened")

    monkeypatch.setattr(Stream, "open", refuse)
    data = data_of(made("images of classes")[0], limit=5)
    assert data.class_counts() == (5, 5, 5)
    assert len(data.train.ids) == 15


def test_a_set_without_an_index_is_chosen_from_all_the_same(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made("images of classes")[0], tmp_path / "set")
    document = document_of(tmp_path / "set")
    del document["splits"]["train"]["index"]
    (tmp_path / "set/dataset.json").write_text(json.dumps(document))
    (tmp_path / "set/train-index.npy").unlink()
    old, arrays = data_of(tmp_path / "set", limit=5), data_of(made("images of classes")[1], limit=5)
    check_same_choice(old, arrays)
    check_same_batches(old, arrays, AUGMENT)
    assert old.spec.fingerprint == data_of(made("images of classes")[0], limit=5).spec.fingerprint


def test_the_choice_is_in_the_fingerprint(made: Made) -> None:
    folder = made("images of classes")[0]
    keys: list[dict[str, Any]] = [{}, {"limit": 5}, {"limit": 6}, {"classes": ["0", "1"]}, {"classes": ["1", "0"]}]
    assert len({data_of(folder, **one).spec.fingerprint for one in keys}) == len(keys)


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("images of classes", {"classes": ["2", "9"]}, r"data\.classes: got '9'; allowed: 0, 1, 2"),
        ("images of one number", {"limit": 3}, r"data\.limit: set, and the targets of .* are 'numbers'"),
    ],
)
def test_what_cannot_be_chosen_is_refused(made: Made, name: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        data_of(made(name)[0], **keys)


OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "chosen": ({"limit": 9}, {}),
    "balanced": ({}, {"sampling": "balanced"}),
    "chosen and balanced": ({"limit": 9, "classes": ["2", "1"]}, {"sampling": "balanced"}),
}


def values_of(batches: list[Batch]) -> Counter[tuple[int, bytes, Any]]:
    """How often each sample came with the same values."""
    rows = (row for batch in batches for row in zip(batch.ids.tolist(), batch.x, batch.y, strict=False))
    return Counter((id, x.numpy().tobytes(), y.numpy().tobytes()) for id, x, y in rows)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("done", [0, 2, 3])
def test_it_goes_on_exactly_on_other_ranks_and_workers(made: Made, option: str, done: int) -> None:
    keys, options = OPTIONS[option]
    data = data_of(made("images of classes")[0], **keys)
    whole = values_of(list(data.train_loader(4, AUGMENT, 5, **options)))
    assert sum(whole.values()) == len(data.train)
    first = [data.train_loader(4, AUGMENT, 5, rank=rank, world_size=2, **options) for rank in range(2)]
    begun = [next(batches) for batches in map(iter, first) for _ in range(done)]
    later = [
        data.train_loader(7, AUGMENT, 5, rank=rank, world_size=3, num_workers=rank, **options) for rank in range(3)
    ]
    for one in later:
        one.load_state_dict(first[0].state_dict())
    assert values_of([*begun, *(batch for one in later for batch in one)]) == whole


@pytest.mark.parametrize("keys", [{}, {"limit": 11}])
@pytest.mark.parametrize("name", ["images of classes", "images of uneven classes"])
def test_balanced_epochs_are_those_of_arrays(made: Made, name: str, keys: dict[str, Any]) -> None:
    stream, arrays = both(made, name, **keys)
    loaders = [data.train_loader(16, AUGMENT, 5, sampling="balanced") for data in (stream, arrays)]
    for _ in range(2):
        ours, theirs = (values_of(list(one)) for one in loaders)
        assert ours == theirs
        assert max(Counter(id for id, *_ in ours).values()) > 1 or "limit" in keys or "uneven" not in name


def test_the_order_of_a_balanced_epoch_is_its_own(made: Made) -> None:
    data = data_of(made("images of uneven classes")[0])
    train = data.train_loader(16, AugmentConfig(), 5, sampling="balanced")
    epochs = [[id for batch in train for id in batch.ids.tolist()] for _ in range(2)]
    assert epochs[0] != epochs[1]
    with pytest.raises(UsageError, match=r"data position: saved with data\.sampling=balanced"):
        train.load_state_dict(data.train_loader(16, AugmentConfig(), 5).state_dict())


def test_samples_without_a_class_cannot_be_balanced_or_mixed(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaledl.data.stream.loader._LEAST_TO_MIX", 1)
    data = data_of(made("images of which some have a class")[0])
    with pytest.raises(UsageError, match=r"data\.sampling: got balanced, and .* have no label"):
        data.train_loader(8, AugmentConfig(), 5, sampling="balanced")
    with pytest.raises(UsageError, match=r"data\.augment\.mixup.* have no label that could be mixed"):
        next(iter(data.train_loader(4, AugmentConfig(mixup=0.4), 5)))


def test_partners_are_of_the_chosen(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    data, filled = data_of(made("images of classes")[0], classes=["0", "1"]), set()
    fill = Reader.fill

    def noting(self: Reader, located: Any, room: Any) -> None:
        fill(self, located, room)
        filled.update(room.ids[: len(located.rows)].tolist())

    monkeypatch.setattr(Reader, "fill", noting)
    monkeypatch.setattr("scaledl.data.stream.loader._LEAST_TO_MIX", 1)
    for batch in data.train_loader(4, AugmentConfig(mixup=0.4), 5):
        assert batch.y.shape[1] == 2
    assert filled == set(data.train.ids.tolist())


@pytest.mark.parametrize("name", ["images of classes", "images with masks", "series of other lengths"])
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_views_are_those_of_arrays(made: Made, name: str, fixed: bool, num_workers: int) -> None:
    stream, arrays = both(made, name)
    keys: dict[str, Any] = {"series": {"noise": 0.1}} if "series" in name else {"crop": 1, "flip": True}
    views = AugmentConfig(), AugmentConfig.model_validate(keys)

    def loader(data: DataModule, **options: Any) -> PositionedLoader:
        return paired_loader(data, "train", 8, views, "contrastive", fixed=fixed, shuffle=True, seed=5, **options)

    places = {id: place for place, id in enumerate(arrays.train.ids.tolist())}
    ours, theirs = loader(stream, num_workers=num_workers), loader(arrays)
    for epoch in range(2):
        seen: list[int] = []
        for batch in ours:
            index = torch.tensor([places[id] for id in batch.ids.tolist()])
            for part, other in zip(batch, theirs.batch(index, epoch), strict=True):  # type: ignore[attr-defined]
                assert torch.equal(part, other)
            assert len(batch.x) == 2 * len(batch.y)
            seen += batch.ids.tolist()
        assert sorted(seen) == sorted(places)


def test_two_views_are_not_of_mixed_samples(made: Made) -> None:
    data = data_of(made("images of classes")[0])
    with pytest.raises(UsageError, match=r"data\.augment\.mixup.*task\.name=contrastive sees each sample by itself"):
        paired_loader(data, "train", 8, (AugmentConfig(mixup=0.2),) * 2, "contrastive")
