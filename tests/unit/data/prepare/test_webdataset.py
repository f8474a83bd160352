"""Tar shards become a data set without being unpacked; what is wrong with a sample or a shard is said by name."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.unit.data.prepare.pictures import picture

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare.run import prepare
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

Members = list[tuple[str, bytes]]


def png(seed: int, size: int = 16) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(seed, size, size)).save(file, "PNG")
    return file.getvalue()


def shard(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(count: int, first: int = 0, extension: str = "cls") -> Members:
    """`count` pictures, by turns of the classes 0 and 1."""
    found: Members = []
    for i in range(first, first + count):
        label = {"cls": str(i % 2), "json": json.dumps({"label": i % 2}), "txt": "ab"[i % 2]}[extension]
        found += [(f"{i:05d}.png", png(i)), (f"{i:05d}.{extension}", label.encode())]
    return found


def made(tmp_path: Path, source: Path, **settings: Any) -> dict[str, Any]:
    return prepare(source, tmp_path / "out", PrepareConfig.model_validate({"max_dropped": 1.0, **settings}))


def dropped(folder: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in (folder / "dropped.jsonl").read_text().splitlines()]
    return {row["key"]: row["reason"] for row in rows}


def items(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("names", [("train/0000.tar", "test/0000.tar"), ("pets-train-000.tar", "pets-test-000.tar")])
def test_shards_with_splits(tmp_path: Path, names: tuple[str, str]) -> None:
    root = tmp_path / "shards"
    shard(root / names[0], samples(20))
    shard(root / names[1], samples(8, first=100))
    before = sorted(tmp_path.rglob("*"))
    document = made(tmp_path, root)
    assert document["labels"] == ["0", "1"]
    assert document["plan"]["kind"] == "webdataset"
    assert {split: part["rows"] for split, part in document["splits"].items()} == {"train": 18, "val": 2, "test": 8}
    assert sorted(path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "out")) == before
    images = np.load(tmp_path / "out/test-images.npy")
    rows = [row for row in items(tmp_path / "out") if row["split"] == "test"]
    assert [row["key"] for row in rows] == [f"{names[1]}:{i:05d}" for i in range(100, 108)]
    np.testing.assert_array_equal(images[3], picture(103, 16, 16))


@pytest.mark.parametrize(("extension", "labels"), [("cls", ["0", "1"]), ("json", ["0", "1"]), ("txt", ["a", "b"])])
def test_labels(tmp_path: Path, extension: str, labels: list[str]) -> None:
    document = made(tmp_path, shard(tmp_path / "one.tar", samples(20, extension=extension)))
    assert document["labels"] == labels


def test_a_pattern_takes_the_files_that_fit(tmp_path: Path) -> None:
    shard(tmp_path / "shards/a-0.tar", samples(10))
    shard(tmp_path / "shards/a-1.tar", samples(10, first=10))
    shard(tmp_path / "shards/b-0.tar", samples(10, first=20))
    document = made(tmp_path, tmp_path / "shards/a-*.tar")
    assert sum(part["rows"] for part in document["splits"].values()) == 20
    with pytest.raises(UsageError, match=r"c-\*\.tar: no file that ends in \.tar"):
        prepare(tmp_path / "shards/c-*.tar", tmp_path / "other", PrepareConfig())
    with pytest.raises(UsageError, match="as a pattern it has to end in one of"):
        prepare(tmp_path / "shards/c-*", tmp_path / "other", PrepareConfig())


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("x.cls", b"0")], "no image by the names: cls"),
        ([("x.png", png(7)), ("x.jpg", png(8)), ("x.cls", b"0")], "2 images by the names: cls, jpg, png"),
        ([("x.png", png(7))], "no label: none of cls, json, txt"),
        ([("x.png", png(7)), ("x.cls", b"cat")], "no label: cls is 'cat', which is no whole number"),
        ([("x.png", png(7)), ("x.cls", b"\xff")], "no label: cls is no UTF-8"),
        ([("x.png", png(7)), ("x.cls", b"0" * 2_000_000)], "no label: cls is no file of at most 1,048,576 bytes"),
        ([("x.png", png(7)), ("x.json", b"{")], "no label: json is no JSON"),
        ([("x.png", png(7)), ("x.json", b"[" * 100_000)], "no label: json is no JSON"),
        ([("x.png", png(7)), ("x.json", b'{"label": 1.5}')], 'no label: json has no "label" that is'),
        ([("x.png", png(7)), ("x.txt", b"a photo of\na cat")], "no label: its name has 16 characters"),
        ([("x.png", png(7)), ("x.cls", b"0"), ("x.cls", b"1")], "the shard has it twice: cls"),
        ([("x.png", png(7)[:90]), ("x.cls", b"0")], "damaged"),
        ([("x.png", b""), ("x.cls", b"0")], "empty file"),
        ([("x.png", b"text"), ("x.cls", b"0")], "no image that is known"),
    ],
)
def test_a_sample_that_cannot_be_used_is_left_out(tmp_path: Path, members: Members, reason: str) -> None:
    made(tmp_path, shard(tmp_path / "one.tar", [*samples(20), *members]))
    found = dropped(tmp_path / "out")
    assert list(found) == ["one.tar:x"]
    assert found["one.tar:x"].startswith(reason)


def test_samples_without_a_label_are_kept_where_they_are_asked_for(tmp_path: Path) -> None:
    bare: Members = [(f"{i:05d}.png", png(i)) for i in range(20, 26)]
    source = shard(tmp_path / "one.tar", [*samples(20), *bare, ("x.png", png(30)), ("x.cls", b"cat")])
    document = made(tmp_path, source, unlabeled="keep")
    assert document["unlabeled"] == 6
    assert list(dropped(tmp_path / "out")) == ["one.tar:x"], "a label that cannot be read is another matter"


def test_where_nothing_is_to_be_learned_no_label_is_read(tmp_path: Path) -> None:
    captions: Members = [(f"{i:05d}.txt", b"a photo of\na cat") for i in range(20)]
    source = shard(tmp_path / "one.tar", [*((f"{i:05d}.png", png(i)) for i in range(20)), *captions])
    document = made(tmp_path, source, target="none")
    assert (document["target"], document["dropped"]) == ("none", {})


def test_minus_one_is_a_class_of_shards(tmp_path: Path) -> None:
    members = [(name, b"-1" if content == b"0" else content) for name, content in samples(20)]
    document = made(tmp_path, shard(tmp_path / "one.tar", members))
    assert document["labels"] == ["1", "-1"]
    assert document["notes"] == [
        "10 labels are -1, which is a class of its own here: a sample without cls, json and txt has no label "
        "(data.prepare.unlabeled)"
    ]


def test_links_and_names_of_members_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(5))
    path = shard(tmp_path / "in/one.tar", [*samples(20), ("../../up.png", png(55)), ("../../up.cls", b"1")])
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.png")
        tar.addfile(link)
        info = tarfile.TarInfo("link.cls")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"1"))
    made(tmp_path, path)
    assert dropped(tmp_path / "out") == {"one.tar:link": "no regular file"}
    assert "one.tar:../../up" in [row["key"] for row in items(tmp_path / "out")]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in", "out", "secret.png"]


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2 + 100]


def overwritten(content: bytes) -> bytes:
    middle = len(content) // 1024 * 512
    return content[:middle] + b"\xaa" * 2048 + content[middle + 2048 :]


@pytest.mark.parametrize(
    "damage", [cut, overwritten, gzip.compress, lambda content: b"", lambda content: b"no tar " * 1000]
)
def test_a_shard_that_is_not_whole_is_refused(tmp_path: Path, damage: Any) -> None:
    path = shard(tmp_path / "one.tar", samples(20))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UsageError, match=r"one\.tar: .*allowed: a whole tar file without compression"):
        made(tmp_path, path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("end", [0, 1, 512, 1023])
def test_a_shard_that_ends_between_two_members_is_refused(tmp_path: Path, end: int) -> None:
    path = shard(tmp_path / "one.tar", samples(20))
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    size = last.offset_data + 512 + end
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UsageError, match=rf"one\.tar: damaged or cut short at byte {size - end:,} of {size:,}"):
        made(tmp_path, path)
    path.write_bytes(path.read_bytes() + bytes(1024 - end))
    assert sum(part["rows"] for part in made(tmp_path, path)["splits"].values()) == 20


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        ("train-1.tar", "nowhere", "is a link to nothing"),
        ("train-1.tar", "train-1.tar", "is a link to nothing"),
        ("train-1.tar", "../outside/1.tar", "is a link out of the source's folder"),
        ("test", "nowhere", "is a link to nothing"),
        ("test", "../outside", "is a link out of the source's folder"),
    ],
)
def test_a_link_out_of_the_source_is_refused(tmp_path: Path, name: str, target: str, message: str) -> None:
    shard(tmp_path / "shards/train-0.tar", samples(20))
    shard(tmp_path / "outside/1.tar", samples(20, first=20))
    (tmp_path / "shards" / name).symlink_to(target)
    with pytest.raises(UsageError) as caught:
        made(tmp_path, tmp_path / "shards")
    assert f"{tmp_path / 'shards' / name}: {message}" in str(caught.value)
    if name.endswith(".tar"):
        with pytest.raises(UsageError, match=message):
            made(tmp_path, tmp_path / "shards/*.tar")


def test_links_within_the_source_and_a_source_that_is_one(tmp_path: Path) -> None:
    shard(tmp_path / "shards/v1/0.tar", samples(20))
    (tmp_path / "shards/latest").symlink_to("v1")
    (tmp_path / "linked.tar").symlink_to("shards/v1/0.tar")
    made(tmp_path, tmp_path / "shards")
    assert {row["key"].partition(":")[0] for row in items(tmp_path / "out")} == {"v1/0.tar"}
    assert prepare(tmp_path / "linked.tar", tmp_path / "other", PrepareConfig())["labels"] == ["0", "1"]


def test_mistakes(tmp_path: Path) -> None:
    shard(tmp_path / "shards/train-0.tar", samples(10))
    shard(tmp_path / "shards/more.tar", samples(10, first=20))
    with pytest.raises(UsageError, match=r"has splits \(train-0\.tar\) and beside them more\.tar"):
        made(tmp_path, tmp_path / "shards")
    with pytest.raises(UsageError, match=r"data\.prepare\.label: got 'cls', but .* is a set of WebDataset shards"):
        made(tmp_path, tmp_path / "shards/more.tar", label="cls")
    with pytest.raises(UsageError, match=r"no sample with an image .* and a label .*; the first: one\.tar:a: no image"):
        made(tmp_path, shard(tmp_path / "one.tar", [("a.cls", b"1")]))
