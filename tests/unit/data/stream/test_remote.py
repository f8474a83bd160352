"""Sets behind a URL: fetched once, checked, kept within the limit; what is wrong there is one message."""

from __future__ import annotations

import fcntl
import gc
import json
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from tests.unit.data.stream.sets import config_of, document_of, prepare_set, write_stream

from scaledl.config import load_config
from scaledl.config.schema import AugmentConfig
from scaledl.data import DataModule, build_data
from scaledl.data.stream import remote
from scaledl.data.stream.place import open_at_a_time
from scaledl.data.stream.split import Stream
from scaledl.errors import ScaledlError, UsageError

pytestmark = pytest.mark.unit

STREAM = {"window_shards": 2, "prefetch_shards": 1}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("remote")
    document = prepare_set(folder)
    assert len(document["splits"]["train"]["shards"]) == 2
    return folder / "set"


@pytest.fixture
def url(prepared: Path) -> Iterator[str]:
    """The set in the memory of this process."""
    files, name = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}"
    files.put(str(prepared), name, recursive=True)
    yield f"memory:/{name}"
    files.rm(name, recursive=True)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_WAITS", (0.0, 0.0))


def ids_and_sum(data: DataModule) -> tuple[list[int], float]:
    batches = list(data.train_loader(32, AugmentConfig(flip=True), 0))
    return [int(i) for batch in batches for i in batch.ids], sum(float(batch.x.double().sum()) for batch in batches)


def path_in(url: str, name: str) -> str:
    return f"{url.removeprefix('memory:/')}/{name}"


def test_a_url_is_the_same_data_set_as_its_folder(url: str, prepared: Path, tmp_path: Path) -> None:
    far = build_data(config_of(url, cache=str(tmp_path), **STREAM), seed=0)
    near = build_data(config_of(prepared, **STREAM), seed=0)
    assert far.spec.fingerprint == near.spec.fingerprint
    assert far.spec.source == url.rpartition("/")[2]
    assert torch.equal(far.val.inputs, near.val.inputs)
    assert ids_and_sum(far) == ids_and_sum(near)


def test_some_samples_behind_a_url_are_chosen_without_its_shards(url: str, prepared: Path, tmp_path: Path) -> None:
    far = build_data(config_of(url, cache=str(tmp_path), **STREAM).model_copy(update={"limit": 9}), seed=0)
    shards = {shard["sha256"] for shard in document_of(prepared)["splits"]["train"]["shards"]}
    assert not shards & {path.name for path in tmp_path.iterdir()}
    near = build_data(config_of(prepared, **STREAM).model_copy(update={"limit": 9}), seed=0)
    assert far.spec.fingerprint == near.spec.fingerprint
    assert ids_and_sum(far) == ids_and_sum(near)
    assert shards <= {path.name for path in tmp_path.iterdir()}


def test_few_samples_of_many_shards_need_room_for_these(tmp_path: Path) -> None:
    document = prepare_set(tmp_path, count=1500)
    assert len(document["splits"]["train"]["shards"]) == 8
    files, name = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}"
    files.put(str(tmp_path / "set"), name, recursive=True)
    stream = {"window_shards": 2, "prefetch_shards": 0, "cache": str(tmp_path / "cache"), "cache_gb": 0.008}
    config = config_of(f"memory:/{name}", **stream)
    build_data(config, seed=0)
    with pytest.raises(UsageError, match=r"cache_gb: got 0\.008; .* up to 7 shards are open at a time"):
        build_data(config.model_copy(update={"limit": 4}), seed=0)
    files.rm(name, recursive=True)


def test_a_second_start_fetches_nothing_but_the_document(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(url, cache=str(tmp_path), **STREAM)
    first = ids_and_sum(build_data(config, seed=0))
    opened: list[str] = []
    files = fsspec.filesystem("memory")
    real = files.open
    monkeypatch.setattr(type(files), "open", lambda self, path, *a, **k: opened.append(path) or real(path, *a, **k))
    assert ids_and_sum(build_data(config, seed=0)) == first
    assert [path.rpartition("/")[2] for path in opened] == ["dataset.json"]


def test_the_config_takes_a_url(url: str) -> None:
    config = load_config(None, [f"data.source={url}"], space=False)
    assert (config.data.source, config.data.root) == ("prepared", url)


def test_a_file_url_goes_through_the_cache(prepared: Path, tmp_path: Path) -> None:
    data = build_data(config_of(f"file://{prepared}", cache=str(tmp_path / "cache"), **STREAM), seed=0)
    assert len(ids_and_sum(data)[0]) == len(data.train)
    shards = {shard["sha256"] for shard in document_of(prepared)["splits"]["train"]["shards"]}
    assert shards <= {path.name for path in (tmp_path / "cache").iterdir()}


DAMAGE: dict[str, tuple[Callable[[Any, str], object], str]] = {
    "missing": (lambda files, path: files.rm(path), "missing; fix: copy the data set there again"),
    "short": (lambda files, path: files.pipe(path, files.cat(path)[:-5]), "cut short: "),
    "long": (lambda files, path: files.pipe(path, files.cat(path) + b"x"), "too long: "),
    "changed": (lambda files, path: files.pipe(path, b"x" * len(files.cat(path))), "SHA-256 differs"),
}


@pytest.mark.parametrize("name", ["train-00001.safetensors", "val-images.npy"])
@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_file_is_named_and_not_kept(url: str, tmp_path: Path, what: str, name: str) -> None:
    damage, words = DAMAGE[what]
    damage(fsspec.filesystem("memory"), path_in(url, name))
    with pytest.raises(UsageError, match=f"{name}: .*{words}"):
        ids_and_sum(build_data(config_of(url, cache=str(tmp_path), **STREAM), seed=0))
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_source_that_fails_twice_is_asked_three_times(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = fsspec.filesystem("memory")
    real, asked = files.open, list[str]()

    def flaky(self: Any, path: str, *args: Any, **kwargs: Any) -> Any:
        if path.endswith("val-labels.npy"):
            asked.append(path)
            if len(asked) <= failures:
                raise ConnectionError("reset by peer")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(type(files), "open", flaky)
    failures = 2
    build_data(config_of(url, cache=str(tmp_path), **STREAM), seed=0)
    assert len(asked) == 3
    failures = 9
    with pytest.raises(ScaledlError, match=r"val-labels.npy: cannot be fetched \(ConnectionError: reset by peer\)"):
        build_data(config_of(url, cache=str(tmp_path / "new"), **STREAM), seed=0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"root": "memory://nothing/here"}, "dataset.json: missing"),
        ({"root": "nonsense://host/set"}, "data.source: nonsense://host/set: .*nonsense"),
        ({"root": "simplecache::memory://x/y"}, "allowed: a URL of one protocol"),
        ({"root": "https://me:secret@host/set"}, "got a URL of https with a password.*environment"),
        ({"download": False}, "data.download: got false"),
        ({"stream": {"cache_gb": 1e-4}}, r"cache_gb: got 0\.0001; arrays of 0\.000777 GB"),
        ({"stream": {"cache_gb": 1e-3}}, r"cache_gb: got 0\.001; .* up to 2 shards are open at a time"),
    ],
)
def test_a_url_that_cannot_be_used(url: str, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    stream = {"cache": str(tmp_path / "cache"), **changes.pop("stream", {})}
    config = config_of(url, **stream).model_copy(update=changes)
    with pytest.raises(ScaledlError, match=words):
        build_data(config, seed=0)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../../train-00000.safetensors"},
        {"rows": -1},
        {"rows": 10**15},
        {"rows": True},
        {"bytes": 5},
        {"sha256": "../x"},
        {"other": 1},
    ],
)
def test_a_document_that_lies_about_its_shards(prepared: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    shutil.copytree(prepared, tmp_path / "set")
    document = document_of(prepared)
    document["splits"]["train"]["shards"][0] |= change
    (tmp_path / "set/dataset.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match=r"dataset\.json: it says of a shard .*prepare it again"):
        build_data(config_of(tmp_path / "set"), seed=0)


def test_a_set_with_other_rows_than_its_shards_have(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared, tmp_path / "set")
    document = document_of(prepared)
    document["splits"]["train"]["rows"] += 1
    (tmp_path / "set/dataset.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match=r"dataset\.json: is not whole \(splits\)"):
        build_data(config_of(tmp_path / "set"), seed=0)


def test_a_hash_that_is_a_path_reaches_no_file(url: str, prepared: Path, tmp_path: Path) -> None:
    document = document_of(prepared)
    document["splits"]["val"]["sha256"]["labels"] = "../" * 8 + "etc/passwd"
    fsspec.filesystem("memory").pipe(path_in(url, "dataset.json"), json.dumps(document).encode())
    with pytest.raises(UsageError, match=r"dataset\.json: is not whole \(splits\.val\)"):
        build_data(config_of(url, cache=str(tmp_path)), seed=0)


def test_arrays_stay_in_the_cache_as_long_as_somebody_has_them(url: str, prepared: Path, tmp_path: Path) -> None:
    data = build_data(config_of(url, cache=str(tmp_path), **STREAM), seed=0)
    path = tmp_path / document_of(prepared)["splits"]["val"]["sha256"]["images"]
    kept = data.val.inputs[:3]
    assert is_in_use(path)
    del data
    gc.collect()
    assert is_in_use(path)
    del kept
    gc.collect()
    assert not is_in_use(path)


def is_in_use(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.parametrize(("rows", "num_workers"), [(1, 0), (10, 0), (64, 0), (300, 0), (7, 2)])
@pytest.mark.parametrize("counts", [(20, 21, 20, 21, 20, 21, 20, 21, 20, 21), (3, 2, 3, 3, 2, 3, 2, 3, 3, 2)])
def test_no_more_shards_are_open_than_the_cache_is_asked_for(
    tmp_path: Path, rows: int, num_workers: int, counts: tuple[int, ...]
) -> None:
    stream = write_stream(tmp_path, counts, spread=3, ahead=2)
    config = config_of("x", window_shards=3, prefetch_shards=2)
    bound = open_at_a_time(counts, config.model_copy(update={"batch_size": rows, "num_workers": num_workers}))
    assert bound <= len(counts)
    readers = [stream.reader(0, 0) for _ in range(max(1, num_workers))]
    most, room = 0, stream.samples.room(rows)
    for turn, start in enumerate(range(0, len(stream), rows)):
        readers[turn % len(readers)].read(start, min(start + rows, len(stream)), 0, 1, room)
        most = max(most, len({number for reader in readers for number in reader._open}))
    assert most <= bound
    for reader in readers:
        reader.close()


@pytest.mark.parametrize("shards", [[], {}, None, "x", 3])
def test_a_document_without_a_list_of_shards(prepared: Path, tmp_path: Path, shards: Any) -> None:
    shutil.copytree(prepared, tmp_path / "set")
    document = document_of(prepared)
    document["splits"]["train"]["shards"] = shards
    (tmp_path / "set/dataset.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match=r"dataset\.json: "):
        build_data(config_of(tmp_path / "set"), seed=0)


@pytest.mark.parametrize("what", ["missing", "cut short"])
def test_a_folder_with_a_shard_missing_or_cut_short_is_known_at_the_start(
    prepared: Path, tmp_path: Path, what: str
) -> None:
    shutil.copytree(prepared, tmp_path / "set")
    path = tmp_path / "set/train-00001.safetensors"
    if what == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UsageError, match=rf"train-00001\.safetensors: {what}.*fix:"):
        build_data(config_of(tmp_path / "set"), seed=0)


def test_a_cached_shard_takes_one_descriptor_and_stays_while_it_is_mapped(
    url: str, prepared: Path, tmp_path: Path
) -> None:
    data = build_data(config_of(url, cache=str(tmp_path), **STREAM), seed=0)
    assert isinstance(data.train, Stream)
    path = tmp_path / document_of(prepared)["splits"]["train"]["shards"][0]["sha256"]
    before = len(list(Path("/proc/self/fd").iterdir()))
    shard = data.train.open(0)
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 1
    assert is_in_use(path)
    labels = shard.parts["labels"]
    del shard
    gc.collect()
    assert is_in_use(path), "its values are still there"
    del labels
    gc.collect()
    assert not is_in_use(path)


@pytest.mark.parametrize(("protocol", "package"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, protocol: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        UsageError, match=rf"data\.source: {protocol}://bucket/set: .*{package}.*; fix: pip install {package}"
    ):
        build_data(config_of(f"{protocol}://bucket/set"), seed=0)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError("Forbidden"), r"access is denied \(PermissionError: Forbidden\); fix: give credentials"),
        (type("NoCredentialsError", (Exception,), {})("none"), r"no credentials \(.*; fix: give credentials"),
    ],
)
def test_what_will_not_change_is_asked_once(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    asked: list[str] = []

    def refuse(self: Any, path: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(path)
        raise error

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "open", refuse)
    with pytest.raises(UsageError, match=words):
        build_data(config_of(url, cache=str(tmp_path), **STREAM), seed=0)
    assert len(asked) == 1
