"""Texts become their UTF-8 bytes and the places where each begins."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare.run import prepare
from scaledl.data.prepared import check_files
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

CONFIG = PrepareConfig(text="text")


def sentences(count: int = 40) -> list[tuple[str, str]]:
    return [(f'Satz {i}: schön,\n"so" 日本', ("good", "bad")[i % 2]) for i in range(count)]


def write_folder(root: Path, samples: list[tuple[str, str]], split: str = "") -> Path:
    for number, (text, label) in enumerate(samples):
        path = root / split / label / f"{number:03}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return root


def write_csv(path: Path, samples: list[tuple[str, str]], header: tuple[str, str] = ("text", "label")) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *samples])
    return path


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_back(out: Path, document: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(text, label, split) by id, from the arrays alone."""
    found = []
    for split in ("train", "val", "test"):
        content, offsets, labels = (
            np.load(out / f"{split}-{part}.npy", mmap_mode="r") for part in ("bytes", "offsets", "labels")
        )
        assert (content.dtype, offsets.dtype) == (np.uint8, np.int64)
        assert offsets[-1] == len(content)
        for begin, end, label in zip(offsets[:-1], offsets[1:], labels, strict=True):
            found.append((content[begin:end].tobytes().decode(), document["labels"][label], split))
    return found


@pytest.mark.parametrize("name", ["text", "words"])
def test_lines_need_not_say_which_column_is_the_text(tmp_path: Path, name: str) -> None:
    extra = {"id": "7"} if name == "text" else {}
    rows = [{"label": label, name: text, **extra} for text, label in sentences()]
    document = prepare(write_jsonl(tmp_path / "s.jsonl", rows), tmp_path / "named", PrepareConfig(text=name))
    found = prepare(tmp_path / "s.jsonl", tmp_path / "out", PrepareConfig())
    assert found["fingerprint"] == document["fingerprint"]


@pytest.mark.parametrize("form", ["folder", "csv", "jsonl"])
def test_texts_come_back_from_the_arrays(tmp_path: Path, form: str) -> None:
    samples = sentences()
    source = {
        "folder": lambda: write_folder(tmp_path / "s", samples),
        "csv": lambda: write_csv(tmp_path / "s.csv", samples),
        "jsonl": lambda: write_jsonl(tmp_path / "s.jsonl", [{"text": t, "label": label} for t, label in samples]),
    }[form]()
    config = PrepareConfig() if form == "folder" else CONFIG
    document = prepare(source, tmp_path / "out", config)
    assert document["modality"] == "text"
    found = read_back(tmp_path / "out", document)
    assert sorted((text, label) for text, label, _ in found) == sorted(samples)
    sizes = sorted(len(text.encode()) for text, _ in samples)
    assert document["lengths"] == {
        "unit": "bytes",
        "min": sizes[0],
        "median": round(np.median(sizes)),
        "max": sizes[-1],
    }
    assert [document["splits"][split]["rows"] for split in ("train", "val", "test")] == [28, 4, 8]
    assert [item["split"] for item in lines(tmp_path / "out" / "items.jsonl")] == [split for *_, split in found]
    assert check_files(tmp_path / "out", document) == []


def test_the_same_texts_give_the_same_bytes(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "s", sentences())
    first, second = (prepare(source, tmp_path / name, PrepareConfig()) for name in "ab")
    assert first == second
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)


def test_splits_of_folders_and_files_stay(tmp_path: Path) -> None:
    samples = sentences()
    write_folder(tmp_path / "s", samples[:30], "train")
    write_folder(tmp_path / "s", samples[30:], "test")
    document = prepare(tmp_path / "s", tmp_path / "a", PrepareConfig())
    assert {text for text, _, split in read_back(tmp_path / "a", document) if split == "test"} == {
        text for text, _ in samples[30:]
    }
    (tmp_path / "t").mkdir()
    write_csv(tmp_path / "t" / "train.csv", samples[:30])
    write_csv(tmp_path / "t" / "dev.csv", samples[30:])
    other = prepare(tmp_path / "t", tmp_path / "b", CONFIG)
    assert other["splits"]["val"]["rows"] == 10


def test_copies_and_empty_texts_go(tmp_path: Path) -> None:
    samples = [*sentences(), ("", "good"), (" \n", "bad"), sentences()[3], ("unsure", "good"), ("unsure", "bad")]
    document = prepare(write_csv(tmp_path / "s.csv", samples), tmp_path / "out", CONFIG)
    assert document["dropped"] == {"an empty text": 2, "an exact copy": 1, "the same text has several labels": 2}
    assert lines(tmp_path / "out" / "dropped.jsonl") == [
        {"key": "s.csv:42", "reason": "an empty text"},
        {"key": "s.csv:43", "reason": "an empty text"},
        {"key": "s.csv:44", "reason": "an exact copy", "of": "s.csv:5"},
        {"key": "s.csv:45", "reason": "the same text has several labels: bad, good"},
        {"key": "s.csv:46", "reason": "the same text has several labels: bad, good"},
    ]


def test_of_copies_in_two_splits_the_one_to_test_on_stays(tmp_path: Path) -> None:
    samples = sentences()
    write_folder(tmp_path / "s", samples, "train")
    write_folder(tmp_path / "s", samples[:4], "test")
    document = prepare(tmp_path / "s", tmp_path / "out", PrepareConfig())
    texts = [text for text, *_ in read_back(tmp_path / "out", document)]
    assert len(texts) == len(set(texts)) == 40
    assert {one["of"].split("/")[0] for one in lines(tmp_path / "out" / "dropped.jsonl")} == {"test"}


def test_files_of_another_encoding_or_far_too_long_are_dropped(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "s", sentences())
    (source / "good" / "latin.txt").write_bytes("schön".encode("latin-1"))
    (source / "good" / "picture.doc").write_bytes(b"x")
    with (source / "bad" / "huge.txt").open("wb") as file:
        file.truncate(1 << 40)  # which no memory holds
    prepare(source, tmp_path / "out", PrepareConfig())
    assert lines(tmp_path / "out" / "dropped.jsonl") == [
        {"key": "bad/huge.txt", "reason": "a text of more than 16,777,216 characters"},
        {"key": "good/latin.txt", "reason": "no UTF-8: byte 3 is 0xf6"},
        {"key": "good/picture.doc", "reason": "no text by its name; known: .txt"},
    ]


def test_half_a_surrogate_pair_is_dropped(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": t, "label": label} for t, label in sentences()]
    source = write_jsonl(tmp_path / "s.jsonl", [*rows, {"text": "ab\ud800", "label": "good"}, {"label": "bad"}])
    document = prepare(source, tmp_path / "out", CONFIG)
    assert document["dropped"] == {"an empty text": 1, "no UTF-8": 1}


def test_a_python_function_gives_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "given_samples.py").write_text(
        "import numpy as np\n"
        "def texts():\n"
        "    for i in range(30):\n"
        "        yield {'x': f'text {i}', 'label': i % 2, 'split': 'test' if i > 25 else 'train'}\n"
        "def rows():\n"
        "    samples = ((i, {'a': i, 'b': 'uv'[i % 2]}) for i in range(60))\n"
        "    return [{'x': x, 'label': 'ab'[i // 2 % 2], 'group': i // 5} for i, x in samples]\n"
        "def series():\n"
        "    return ({'x': np.full((2, 3 + i % 2), i, np.float32), 'label': 'ab'[i % 2]} for i in range(30))\n"
        "def images():\n"
        "    rng = np.random.default_rng(0)\n"
        "    return [{'x': rng.integers(0, 255, (9, 9, 3), dtype=np.uint8), 'label': 'ab'[i % 2]} for i in range(30)]\n"
        "def mixed():\n"
        "    return [{'x': 'a', 'label': 1}, {'x': {'a': 1}, 'label': 2}]\n"
        "def broken():\n"
        "    yield {'x': 'a', 'label': 1}\n"
        "    raise OSError('the disk is gone')\n"
    )
    monkeypatch.chdir(tmp_path)
    made = {
        name: prepare(Path(f"python:given_samples:{name}"), tmp_path / name, PrepareConfig())
        for name in ("texts", "rows", "series", "images")
    }
    assert [document["modality"] for document in made.values()] == ["text", "table", "series", "image"]
    assert made["texts"]["splits"]["test"]["rows"] == 4
    assert made["series"]["in_shape"] == [2, 4]
    assert prepare(Path("python:given_samples:rows"), tmp_path / "rows", PrepareConfig()) == made["rows"]
    for name, message in (
        ("mixed", "sample 1 is for table and those before for text"),
        ("broken", "failed at sample 1: OSError: the disk is gone"),
        ("absent", "cannot be imported"),
    ):
        with pytest.raises(UsageError, match=message):
            prepare(Path(f"python:given_samples:{name}"), tmp_path / name, PrepareConfig())
        assert not (tmp_path / name).exists()
