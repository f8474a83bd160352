"""Tokens are counted once on a machine; what lies in the cache is used if it is whole, and nothing depends on it."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest
import torch
from tests.unit.data.stream.kinds import data_of, prepare_both

from scaledl.data import DataModule
from scaledl.data.stream import inputs
from scaledl.data.stream.counts import counted_once

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_both(tmp_path_factory.mktemp("counts"), "long texts of nothing")[0]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts were counted, each time that they were."""
    found: list[int] = []
    real = inputs._sizes

    def noting(texts: inputs.StreamTexts, whole: object) -> torch.Tensor:
        found.append(len(texts))
        return real(texts, whole)  # type: ignore[arg-type]

    monkeypatch.setattr(inputs, "_sizes", noting)
    return found


def files(folder: Path) -> list[Path]:
    return sorted((folder.parent / "cache/tokens").glob("*.npz"))


def load(folder: Path, length: int = 12, **text: object) -> DataModule:
    return data_of(folder, text={"max_length": length, **text})


def test_a_second_start_counts_nothing(folder: Path, counted: list[int]) -> None:
    first, again, longer = load(folder), load(folder), load(folder, length=30)
    assert counted == [86]
    assert first.spec.fingerprint == again.spec.fingerprint != longer.spec.fingerprint
    assert (len(first.train), first.note) == (len(again.train), again.note)
    load(folder, tokenizer="char")
    load(folder, lowercase=True)
    assert counted == [86] * 3
    assert len(files(folder)) == 3


@pytest.mark.parametrize("damage", ["cut short", "a bit flipped", "no archive", "of another set"])
def test_what_is_damaged_is_counted_anew(tmp_path: Path, damage: str) -> None:
    calls: list[int] = []

    def count() -> torch.Tensor:
        calls.append(1)
        return torch.arange(500)

    counted_once(tmp_path, "key", 500, count)
    counted_once(tmp_path / "other", "key", 400, lambda: torch.arange(400))
    [path] = tmp_path.glob("*.npz")
    content = path.read_bytes()
    flipped = content[:900] + bytes([content[900] ^ 1]) + content[901:]
    other = (tmp_path / "other" / path.name).read_bytes()
    path.write_bytes(
        {"cut short": content[:-9], "a bit flipped": flipped, "no archive": b"x", "of another set": other}[damage]
    )
    for _ in range(2):
        assert counted_once(tmp_path, "key", 500, count).tolist() == list(range(500))
    assert len(calls) == 2


def test_a_folder_that_cannot_be_written_to_is_no_matter(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for _ in range(2):
        assert counted_once(tmp_path / "file/below", "key", 3, lambda: torch.arange(3)).tolist() == [0, 1, 2]


def _count(folder: Path) -> None:
    def count() -> torch.Tensor:
        with (folder / "calls").open("a") as file:
            file.write("x")
        time.sleep(0.3)
        return torch.arange(4)

    assert counted_once(folder / "cache", "key", 4, count).tolist() == [0, 1, 2, 3]


def test_processes_wait_for_the_first(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_count, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "calls").read_text() == "x"
