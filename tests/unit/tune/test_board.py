"""What a search shows: the figures, and the lines where there is no terminal."""

from __future__ import annotations

import re
from dataclasses import replace as with_fields
from pathlib import Path

import pytest
from tests.unit.tune.fake_executor import EPOCHS, Executor, Killed, open_search_of, search_config

from scaledl import console
from scaledl.tune import board
from scaledl.tune.board import Board, Tally, describe_trial, duration, fields, tally
from scaledl.tune.search import Outcome, Search
from scaledl.tune.study import Trial

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (5.4, "5 s"), (60, "1 min"), (90, "1.5 min"), (3600, "1 h"), (5400, "1.5 h"), (360_000, "100 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


NOW = Tally(64, 2, 3, 0, 0, spent=90.0, saved=0.0, epochs=30, busy=None, eta=None)


def test_the_line_leaves_out_what_there_is_none_of() -> None:
    assert fields(NOW, None) == {"running": "2", "spent": "1.5 min"}
    more = with_fields(NOW, stopped=4, failed=1, busy=0.957, saved=7200.0)
    assert more.ended == 8
    assert fields(more, 0.98765) == {
        **{"running": "2", "stopped early": "4", "failed": "1", "best": "0.9877", "busy": "96 %"},
        **{"spent": "1.5 min", "saved": "2 h"},
    }


def test_a_trial_is_its_figures_and_what_is_another_than_in_the_config() -> None:
    point = {"optimizer.lr": 0.012345, "data.batch_size": 32, "model.width": 16}
    trial = Trial(3, "complete", point, values=(0.98765,))
    default = {"optimizer.lr": 0.001, "data.batch_size": 32}
    assert describe_trial(trial, ["val_accuracy"], default) == "val_accuracy 0.9877  lr=0.0123  width=16"
    assert describe_trial(trial, ["val_accuracy"], point) == "val_accuracy 0.9877  the config as it is"


def aged(search: Search, seconds: float) -> None:
    """As if the slots had been up, and the trials in work, for longer."""
    search.began -= seconds
    for live in search.live.values():
        live._since = (live._since or 0) - seconds


def test_the_tally_of_a_search(tmp_path: Path) -> None:
    search = open_search_of(search_config(tmp_path, trials=9, search="random", scheduler="none"))
    for _ in range(3):
        assignment = search.next()
        assert assignment is not None
        search.started(assignment.number, "here")
    assert tally(search, 3).busy is None  # too early
    aged(search, 100)
    search._end(0, Outcome("stopped", {}, 3))
    search.end(1, Outcome("failed", {}, 0, "x"))
    now = tally(search, 3)
    assert (now.count, now.running, now.complete, now.stopped, now.failed, now.ended) == (9, 1, 0, 1, 1, 2)
    assert 300 <= now.spent < 301
    assert 200 <= now.saved < 201  # three of nine epochs in a hundred seconds
    assert now.busy is not None
    assert 0.99 < now.busy <= 1
    assert tally(search, 30).busy == pytest.approx(0.1, abs=0.01)
    assert tally(search, 1).busy == 1
    assert now.eta == pytest.approx(50 * 7, rel=0.02)
    assert tally(search, 0).busy is None


def test_seconds_of_a_trial_that_waits_are_counted(tmp_path: Path) -> None:
    config = search_config(tmp_path, trials=4, search="random", scheduler="pbt", population=4)
    search = open_search_of(config)
    assignment = search.next()
    assert assignment is not None
    search.started(assignment.number, "here")
    aged(search, 50)
    search.report(assignment.number, 1, {"val_accuracy": 0.5})
    now = tally(search, 1)
    assert (now.running, now.ended) == (0, 0)
    assert 50 <= now.spent < 51


def test_lines_without_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "PLAIN_SECONDS", 0.0)
    monkeypatch.setattr(board, "LIVE_SECONDS", 0.0)
    search = open_search_of(search_config(tmp_path, trials=6, search="random", scheduler="asha"))
    with Board(search, 2) as shown:
        executor = Executor(search, 2)
        count = executor._count
        monkeypatch.setattr(executor, "_count", lambda: (count(), shown.tick()))
        executor.run()
        shown.tick()
    lines = capsys.readouterr().out.splitlines()
    best = [line for line in lines if line.startswith("best so far: trial ")]
    number = search.study.best()[0].number
    assert best[-1].startswith(f"best so far: trial {number}  val_accuracy ")
    assert [re.sub(r" .*", "", line) for line in lines if line not in best] == ["tune"] * (len(lines) - len(best))
    for part in (
        "trial 6/6",
        "running 0",
        "stopped early ",
        f"best {search.study.best()[0].values[0]:.4g}",
        "spent 0 s",
    ):
        assert part in lines[-1]
    assert not re.search(r"[\x00-\x1f]", "".join(lines))
    assert all(int(share) <= 100 for share in re.findall(r"busy (\d+) %", "".join(lines)))


def test_a_board_of_a_search_that_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = search_config(tmp_path, trials=4, search="random", scheduler="none")
    with pytest.raises(Killed):
        Executor(open_search_of(config), events=3 * EPOCHS * 2).run()
    search = open_search_of(config)
    ended = search.num_ended
    assert ended > 0
    with Board(search, 1) as shown:
        shown.tick()
    assert f"{ended}/4" in capsys.readouterr().out
