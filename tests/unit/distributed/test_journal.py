"""When a guardian writes the files of its ranks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from scaledl.distributed.cause import publish_cause
from scaledl.distributed.journal import STEP_SECONDS, TOUCH_SECONDS, Journal
from scaledl.distributed.link import open_pipe
from scaledl.distributed.status import RankStatus, read_status, status_path
from scaledl.distributed.ward import Ward

pytestmark = pytest.mark.unit


@pytest.fixture
def ward() -> Iterator[Ward]:
    reader, writer = open_pipe()
    ward = Ward(RankStatus("this", "running"), reader, lambda: None)
    yield ward
    ward.close()
    os.close(writer)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    moment = [1000.0]
    monkeypatch.setattr("scaledl.distributed.journal.time.monotonic", lambda: moment[0])
    return moment


def step(folder: Path) -> int | None:
    found = read_status(status_path(folder, 0))
    return None if found is None else found.step


@pytest.mark.parametrize(("world_size", "seconds"), [(1, STEP_SECONDS), (64, STEP_SECONDS), (512, 16.0)])
def test_steps_now_and_then_changes_at_once(
    ward: Ward, clock: list[float], tmp_path: Path, world_size: int, seconds: float
) -> None:
    journal = Journal([ward], tmp_path, world_size)
    journal.write()
    for later, expected in ((seconds - 0.1, 0), (0.2, 5)):
        clock[0] += later
        ward.status = replace(ward.status, step=5)
        journal.write()
        assert step(tmp_path) == expected
    ward.status = replace(ward.status, step=6, status="preempted")
    journal.write()
    assert step(tmp_path) == 6


def test_a_file_that_stays_as_it_is_is_touched(ward: Ward, clock: list[float], tmp_path: Path) -> None:
    journal = Journal([ward], tmp_path, 1)
    journal.write()
    path = status_path(tmp_path, 0)
    os.utime(path, (1, 1))
    clock[0] += TOUCH_SECONDS
    journal.write()
    assert path.stat().st_mtime == 1
    clock[0] += STEP_SECONDS + 1
    journal.write()
    assert path.stat().st_mtime > 1


def test_steps_go_to_the_newest_folder_and_the_end_to_all(ward: Ward, clock: list[float], tmp_path: Path) -> None:
    fixed, first, second = folders = [tmp_path / name for name in ("fixed", "first", "second")]
    journal = Journal([ward], fixed, 1)
    assert journal.folders == [fixed]
    for count, known in ((3, [first]), (4, [first, second])):
        ward.folders = known
        ward.status = replace(ward.status, step=count)
        clock[0] += 10
        journal.write()
    assert [step(folder) for folder in folders] == [4, 3, 4]
    ward.status = replace(ward.status, step=5, status="complete")
    journal.write()
    assert [step(folder) for folder in folders] == [5, 5, 5]
    assert journal.folders == folders


def test_rank_0_removes_the_causes_of_earlier_launches(ward: Ward, tmp_path: Path) -> None:
    publish_cause(tmp_path, RankStatus("earlier", "killed"))
    ward.status = replace(ward.status, rank=1)
    Journal([ward], tmp_path, 2).write()
    assert len(list(tmp_path.iterdir())) == 2
    ward.status = replace(ward.status, rank=0)
    Journal([ward], tmp_path, 2).write()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank-00000.status", "rank-00001.status"]
