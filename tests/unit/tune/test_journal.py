"""The file of a search: what stands in it, who can read it, and how often it is synced."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages.journal import JournalFileBackend

from scaledl.tune.journal import Journal

pytestmark = pytest.mark.unit


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seen: list[int] = []
    monkeypatch.setattr(os, "fsync", seen.append)
    return seen


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), max_size=12))
def test_entries_are_read_from_any_number_on(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.mktemp("j") / "journal"
    writer, reader = Journal(path), Journal(path)
    written: list[dict[str, int]] = []
    for count, start in steps:
        new = [{"op_code": len(written) + i} for i in range(count)]
        writer.append_logs(new)
        written += new
        for journal in (writer, reader, JournalFileBackend(str(path))):
            assert list(journal.read_logs(start)) == written[start:]


def test_what_belongs_together_is_synced_once_and_can_be_read_at_once(tmp_path: Path, syncs: list[int]) -> None:
    journal = Journal(tmp_path / "j")
    journal.append_logs([{"op_code": 0}])
    assert len(syncs) == 1
    with journal.together():
        with journal.together():
            journal.append_logs([{"op_code": 1}])
        journal.append_logs([{"op_code": 2}])
        assert len(syncs) == 1
        assert [entry["op_code"] for entry in Journal(tmp_path / "j").read_logs(0)] == [0, 1, 2]
    assert len(syncs) == 2
    with journal.together():
        pass
    assert len(syncs) == 2


def test_what_was_written_before_an_error_is_synced(tmp_path: Path, syncs: list[int]) -> None:
    journal = Journal(tmp_path / "j")

    def fail() -> None:
        with journal.together():
            journal.append_logs([{"op_code": 1}])
            raise ValueError("told")

    with pytest.raises(ValueError, match="told"):
        fail()
    assert len(syncs) == 1


@pytest.mark.parametrize("end", [b'{"op_', b"nonsense\n", b"[]\n", b'{"other": 1}\n'])
def test_a_damaged_last_entry_is_left_out_and_one_before_the_end_is_an_error(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "j"
    path.write_bytes(b'{"op_code":0}\n' + end)
    assert list(Journal(path).read_logs(0)) == [{"op_code": 0}]
    path.write_bytes(path.read_bytes().removesuffix(b"\n") + b'\n{"op_code":1}\n')
    with pytest.raises(ValueError, match=r"entry|Invalid|Expecting|Extra"):
        list(Journal(path).read_logs(0))


class Arriving(io.BytesIO):
    """A file at whose end half a line is read, and the other half a moment later."""

    def __iter__(self) -> Iterator[bytes]:
        return iter([b'{"op_code":0}\n', b'{"op_', b'code":1}\n'])


def test_a_reader_that_meets_half_an_entry_stops_there_and_has_the_rest_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "j"
    path.write_bytes(b'{"op_code":0}\n{"op_code":1}\n')
    journal = Journal(path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *_: Arriving())
        assert list(journal.read_logs(0)) == [{"op_code": 0}]
    assert list(journal.read_logs(1)) == [{"op_code": 1}]
