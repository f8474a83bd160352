"""What `scaledl runs --watch` makes of the files of running jobs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from scaledl.commands.snapshot import Snapshot, take_snapshot
from scaledl.commands.watching import COLUMNS, Watch, eta_seconds, fitting_columns, line, mean_speed, row
from scaledl.config import Config, load_config
from scaledl.distributed.status import RankStatus, status_path, write_status
from scaledl.run import Run

pytestmark = pytest.mark.unit


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A run of this process."""
    run = Run.create(tmp_path / "runs", "name", "id", config=Config())
    run.begin()
    yield run
    if run.path.exists():
        run.finish("failed")


def record(run: Run, *records: dict[str, object] | str) -> None:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    with run.metrics_file.open("a") as file:
        file.write("".join(f"{text}\n" for text in lines))


def train(step: int, epoch: int, loss: float | None = 0.5, **more: object) -> dict[str, object]:
    return {"kind": "train", "step": step, "epoch": epoch, "loss": loss, "losses": [loss] * 50, **more}


def val(step: int, epoch: int) -> dict[str, object]:
    return {"kind": "val", "step": step, "epoch": epoch, "val_loss": 0.4}


def rank(run: Run, number: int, **more: object) -> None:
    status = RankStatus("this", "running", rank=number, host=f"n{number + 1}", pid=1, attempt=1)
    write_status(run.path / "ranks", replace(status, **more))  # type: ignore[arg-type]


def test_a_run_that_has_just_begun(run: Run) -> None:
    found = take_snapshot(run)
    assert (found.label, found.status, found.attempt) == ("name/id", "running", 1)
    assert (found.step, found.total_steps, found.epoch, found.epochs, found.loss) == (None, None, None, 10, None)
    assert (found.ranks_alive, found.world_size, found.hosts) == (1, 1, (run.manifest.host,))
    assert found.seen is not None
    assert abs(found.seen - time.time()) < 60
    assert row(found, None)[3:8] == ["-", "-", "-", "-", "-"]


def test_metrics_tell_step_epoch_loss_and_after_an_epoch_the_total(run: Run) -> None:
    record(run, train(50, 0, 0.9))
    assert take_snapshot(run).total_steps is None
    record(run, val(117, 0), train(150, 1, 0.25))
    found = take_snapshot(run)
    assert (found.step, found.total_steps, found.epoch, found.loss) == (150, 1170, 2, 0.25)
    record(run, val(151, 1))  # no whole number of steps an epoch: a run that was cut short
    assert take_snapshot(run).total_steps is None


def test_a_total_that_is_recorded(run: Run) -> None:
    record(run, train(50, 0, total_steps=900))
    assert take_snapshot(run).total_steps == 900


def test_a_limit_of_steps(tmp_path: Path) -> None:
    config = load_config(None, ["trainer.max_steps=40"])
    run = Run.create(tmp_path / "runs", "name", "id", config=config)
    assert take_snapshot(run).total_steps == 40
    record(run, val(10, 0))
    assert take_snapshot(run).total_steps == 40
    record(run, val(6, 1))
    assert take_snapshot(run).total_steps == 30


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "\0\xff", '{"kind": "train"}', '{"kind": "train", "step": "x", "epoch": 0}', "9" * 5000],
)
def test_lines_that_are_no_records(run: Run, text: str) -> None:
    record(run, train(50, 0), text)
    assert take_snapshot(run).step == 50


@pytest.mark.parametrize("loss", [None, "high"])
def test_a_loss_that_is_none(run: Run, loss: None) -> None:
    record(run, train(50, 0, loss))
    found = take_snapshot(run)
    assert found.loss is None
    assert "loss" not in line(found, None)


def test_only_the_end_of_long_metrics_is_read(run: Run) -> None:
    record(run, val(117, 0), *("x" * 1000 for _ in range(300)), train(500, 4))
    found = take_snapshot(run)
    assert (found.step, found.total_steps) == (500, None)


def test_ranks_by_their_status_files(run: Run) -> None:
    rank(run, 0, step=61, start_step=40)
    rank(run, 1)
    rank(run, 2, launch="earlier")
    record(run, train(50, 0))
    found = take_snapshot(run)
    assert (found.step, found.start_step) == (61, 40)
    assert (found.ranks_alive, found.world_size, found.hosts) == (2, 2, ("n1", "n2"))
    rank(run, 1, status="killed")
    old = time.time() - 1000
    os.utime(status_path(run.path / "ranks", 0), (old, old))
    assert take_snapshot(run).ranks_alive == 0


def test_the_stage_that_a_chain_is_at(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "runs", "name", "id", kind="compress", config=Config())
    run.begin()
    first, second = (run.nested(f"stages/{name}", config=Config()) for name in ("01-distill", "02-prune"))
    first.begin()
    first.finish("complete")
    second.begin()
    record(second, train(50, 0), val(117, 0))
    found = take_snapshot(run)
    assert (found.label, found.step, found.epoch, found.epochs) == ("name/id 02-prune", 117, 1, None)
    assert found.total_steps is None  # a stage has a number of epochs of its own
    record(second, train(150, 1, total_steps=234))
    assert take_snapshot(run).total_steps == 234
    second.finish("failed")
    run.finish("failed")
    assert take_snapshot(run).label == "name/id"


SNAPSHOT = Snapshot(
    label="name/id",
    status="running",
    attempt=2,
    step=450,
    start_step=300,
    total_steps=1170,
    epoch=4,
    epochs=10,
    loss=0.12345,
    ranks_alive=2,
    world_size=2,
    hosts=("n1", "n2"),
    since=1000.0,
    seen=1010.0,
)


def test_a_run_as_a_line() -> None:
    seen = replace(SNAPSHOT, seen=time.time() - 3.2)
    assert line(seen, 15.0) == (
        "name/id  running  attempt 2  step 450/1170  epoch 4/10  loss 0.1235  steps/s 15  ETA 0:48  ranks 2/2  "
        "on n1 n2  seen 0:03 ago"
    )
    assert len(row(seen, None)) == len(COLUMNS)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 15.0),
        ({"start_step": None}, None),
        ({"step": None}, None),
        ({"step": 300}, None),
        ({"since": None}, None),
        ({"seen": 900.0}, None),
    ],
)
def test_the_mean_speed_of_an_attempt(changes: dict[str, float | None], expected: float | None) -> None:
    assert mean_speed(replace(SNAPSHOT, **changes)) == expected  # type: ignore[arg-type]


def test_time_left() -> None:
    assert eta_seconds(SNAPSHOT, 10.0) == 72.0
    assert eta_seconds(replace(SNAPSHOT, step=2000), 10.0) == 0.0
    for snapshot, speed in ((SNAPSHOT, None), (SNAPSHOT, 0.0), (replace(SNAPSHOT, total_steps=None), 1.0)):
        assert eta_seconds(snapshot, speed) is None


def test_speed_is_that_of_the_last_minute(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = [0.0]
    monkeypatch.setattr("scaledl.commands.watching.time.monotonic", lambda: moment[0])
    watch = Watch(run.path.parent.parent)
    speeds = []
    for seconds, step in ((0, 0), (10, 1000), (20, 2000), (70, 2000), (90, 2010), (200, 2010)):
        moment[0] = float(seconds)
        rank(run, 0, step=step)
        [(_, speed)] = watch.look()
        speeds.append(speed)
    assert speeds[1:5] == [100.0, 100.0, pytest.approx(1000 / 60), pytest.approx(10 / 70)]


def test_runs_appear_end_and_vanish(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    watch = Watch(root)
    assert watch.look() == []
    done = Run.create(root, "name", "done", config=Config())
    done.begin()
    done.finish("complete")
    (root / "name" / "broken").mkdir()
    (root / "name" / "broken" / "manifest.json").write_text("{")
    assert watch.look() == []
    run = Run.create(root, "name", "id", config=Config())
    run.begin()
    assert [snapshot.status for snapshot, _ in watch.look()] == ["running"]
    run.finish("preempted")
    assert [snapshot.status for snapshot, _ in watch.look()] == ["preempted"]
    run.begin()
    assert [(snapshot.status, snapshot.attempt) for snapshot, _ in watch.look()] == [("running", 2)]
    for path in sorted(run.path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    run.path.rmdir()
    assert watch.look() == []


def test_a_narrow_terminal_has_no_room_for_everything() -> None:
    cells = [row(replace(SNAPSHOT, seen=time.time()), 15.0)]
    assert fitting_columns(cells, 200) == list(COLUMNS)
    assert fitting_columns(cells, 80) == ["run", "status", "step", "loss", "steps/s", "ETA", "ranks", "seen"]
    assert fitting_columns(cells, 10) == ["run", "status", "step", "ETA"]
