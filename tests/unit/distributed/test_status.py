from dataclasses import replace
from pathlib import Path

import pytest

from scaledl.distributed.cause import cause_path, forget_causes, publish_cause, read_cause
from scaledl.distributed.status import (
    STATUSES,
    RankStatus,
    read_status,
    read_statuses,
    status_path,
    write_status,
)
from scaledl.errors import ScaledlError

pytestmark = pytest.mark.unit

FULL = RankStatus(
    launch="job-7.0",
    status="killed",
    step=450,
    start_step=300,
    attempt=2,
    rank=3,
    host="n2",
    pid=123,
    signal="SIGKILL",
    exit=137,
    time="2026-01-01T00:00:00+00:00",
    message="a=b",
    stage=2,
)


def test_a_file_is_lines_that_a_shell_can_read(tmp_path: Path) -> None:
    write_status(tmp_path, FULL)
    assert (tmp_path / "rank-00003.status").read_text() == (
        "launch=job-7.0\nstatus=killed\nstep=450\nstart_step=300\nattempt=2\nrank=3\nhost=n2\npid=123\n"
        "signal=SIGKILL\nexit=137\ntime=2026-01-01T00:00:00+00:00\nmessage=a=b\nstage=2\n"
    )


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("status", STATUSES)
def test_what_is_written_is_read(tmp_path: Path, status: str, durable: bool) -> None:
    written = replace(FULL, status=status, exit=None if status == "running" else 0, signal="")
    write_status(tmp_path, written)
    write_status(tmp_path, replace(written, step=451), durable=durable)
    assert read_status(status_path(tmp_path, 3)) == replace(written, step=451)
    assert [path.name for path in tmp_path.iterdir()] == ["rank-00003.status"]


@pytest.mark.parametrize(
    "message",
    ["two\nlines\r\n\tand more", "\x1b[31mred", "\u2028", "\udcff", "status=complete", "x" * 5000, "", "ä 漢"],
)
def test_no_value_breaks_its_line(tmp_path: Path, message: str) -> None:
    write_status(tmp_path, replace(FULL, message=message, host=f"n{message}"))
    text = (tmp_path / "rank-00003.status").read_text(encoding="utf-8")
    assert text.count("\n") == len(text.splitlines()) == 13
    assert len(text) < 2000
    found = read_status(status_path(tmp_path, 3))
    assert found is not None
    assert (found.status, found.exit, found.time) == ("killed", 137, FULL.time)


@pytest.mark.parametrize(
    "text", ["", "status=killed", "launch=x", "launch=x\nstatus=dead", "launch=x\nstatus=killed\nstep=many", "\xff\0"]
)
def test_what_is_no_status_is_left_out(tmp_path: Path, text: str) -> None:
    (tmp_path / "rank-00000.status").write_text(text, encoding="latin-1")
    write_status(tmp_path, FULL)
    assert read_statuses(tmp_path) == [FULL]


def test_unknown_keys_are_those_of_a_newer_version(tmp_path: Path) -> None:
    (tmp_path / "rank-00003.status").write_text(f"{FULL.text()}colour=red\n")
    assert read_statuses(tmp_path) == [FULL]


def test_statuses_come_in_the_order_of_ranks_and_of_one_launch(tmp_path: Path) -> None:
    assert read_statuses(tmp_path / "nothing") == []
    for rank, launch in ((100_000, "a"), (7, "b"), (0, "a")):
        write_status(tmp_path, replace(FULL, rank=rank, launch=launch))
    (tmp_path / ".rank-00001.status.tmp").write_text("half")
    assert [status.rank for status in read_statuses(tmp_path)] == [0, 7, 100_000]
    assert [status.rank for status in read_statuses(tmp_path, "a")] == [0, 100_000]


@pytest.mark.parametrize("durable", [True, False])
def test_a_folder_that_cannot_be_written(tmp_path: Path, durable: bool) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ScaledlError, match="cannot write the rank's status"):
        write_status(tmp_path / "file", FULL, durable=durable)


def test_the_first_cause_stands(tmp_path: Path) -> None:
    assert read_cause(tmp_path / "nothing", FULL.launch) is None
    assert read_cause(tmp_path, FULL.launch) is None
    other = replace(FULL, rank=0, status="failed")
    assert publish_cause(tmp_path, FULL) is FULL
    assert publish_cause(tmp_path, other) == FULL
    assert read_cause(tmp_path, FULL.launch) == FULL
    assert [path.name for path in tmp_path.iterdir()] == ["cause-job-7.0.status"]


def test_a_rank_that_falls_outweighs_one_that_leaves(tmp_path: Path) -> None:
    leaving = replace(FULL, status="preempted", rank=0)
    publish_cause(tmp_path, leaving)
    assert publish_cause(tmp_path, replace(leaving, rank=1)) == leaving
    assert publish_cause(tmp_path, FULL) is FULL
    assert read_cause(tmp_path, FULL.launch) == FULL


def test_causes_of_other_launches_are_not_seen_and_removed(tmp_path: Path) -> None:
    for launch in ("old", "../new", "a b"):
        publish_cause(tmp_path, replace(FULL, launch=launch))
    assert read_cause(tmp_path, "a?b") is None  # its file has the same name
    forget_causes(tmp_path, "../new")
    assert list(tmp_path.iterdir()) == [cause_path(tmp_path, "../new")]
    forget_causes(tmp_path / "nothing", "x")
