"""The journal of a search: what a kill, a full disk or a bad sector leaves of it, who may read it, and what is best."""

from __future__ import annotations

import json
import math
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.unit.tune.fake_executor import search_config

from scaledl.config import Config, replace, space_of
from scaledl.errors import ScaledlError, UsageError
from scaledl.tune.journal import mend
from scaledl.tune.study import JOURNAL, Study, Trial, read_study

pytestmark = pytest.mark.unit

SPACE: dict[str, Any] = {
    "optimizer.lr": {"loguniform": [1e-4, 1e-1]},
    "optimizer.name": ["adamw", "sgd"],
    "optimizer.momentum": {"uniform": [0.1, 0.9], "when": {"optimizer.name": "sgd"}},
}
FRONT = {"val_accuracy": "max", "val_loss": "min"}


def study_in(folder: Path, space: dict[str, Any] | None = None, **tune: Any) -> Study:
    folder.mkdir(exist_ok=True)
    config = search_config(folder, SPACE if space is None else space, search="random", **tune)
    return Study(folder, config, space_of(config))


def filled(folder: Path, count: int = 3) -> Study:
    study = study_in(folder)
    for i in range(count):
        number, _ = study.ask()
        study.report(number, 1, 0.1 * i)
        study.tell(number, "complete", [0.2 * i], epochs=9, seconds=2.5, host="here", metrics={"val_loss": 1.0})
    return study


def test_a_trial_is_read_as_it_was_told(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    number, point = study.ask()
    assert study.own() == [Trial(0, "running", point, started=study.own()[0].started)]
    study.report(number, 2, 0.5)
    study.note(number, attempts=2)
    study.tell(number, "stopped", epochs=2, seconds=1.5, host="n1", error="behind")
    for found in (study, study_in(tmp_path), read_study(tmp_path, study.config, study.space)):
        trial = found.own()[0]
        assert (trial.number, trial.state, trial.point, dict(trial.curve)) == (0, "stopped", point, {2: 0.5})
        assert (trial.epochs, trial.seconds, trial.attempts, trial.host) == (2, 1.5, 2, "n1")
        assert (trial.error, trial.values, trial.parent) == ("behind", (), None)
        assert trial.started <= (trial.ended or 0)


def test_a_fixed_point_and_its_parent(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    fixed = {"optimizer.lr": 0.01, "optimizer.name": "sgd", "optimizer.momentum": 0.5, "not.searched": 1}
    number, point = study.ask(fixed, parent=7)
    assert point == {key: value for key, value in fixed.items() if key != "not.searched"}
    assert study.own()[number].parent == 7
    assert set(study.ask({"optimizer.name": "adamw", "optimizer.momentum": 0.5})[1]) == {
        "optimizer.lr",
        "optimizer.name",
    }


# What storage leaves of it


def torn(lines: list[bytes]) -> tuple[bytes, int]:
    return b"".join(lines)[: -len(lines[-1]) // 2], len(lines) - 1


def without_last_newline(lines: list[bytes]) -> tuple[bytes, int]:
    return b"".join(lines)[:-1], len(lines) - 1


def garbage_in_the_middle(lines: list[bytes]) -> tuple[bytes, int]:
    return b"".join([*lines[:9], b"\0\xff\0garbage\n", *lines[9:]]), 9


def json_that_is_no_entry(lines: list[bytes]) -> tuple[bytes, int]:
    return b"".join([*lines[:9], b"3\n", b"{}\n", *lines[9:]]), 9


def zeros_at_the_end(lines: list[bytes]) -> tuple[bytes, int]:
    return b"".join(lines) + b"\0" * 4096, len(lines)


Damage = Callable[[list[bytes]], tuple[bytes, int]]


@pytest.mark.parametrize(
    "damaged", [torn, without_last_newline, garbage_in_the_middle, json_that_is_no_entry, zeros_at_the_end]
)
def test_a_damaged_journal_is_cut_off_before_the_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damaged: Damage
) -> None:
    filled(tmp_path)
    path = tmp_path / JOURNAL
    content, whole = damaged(path.read_bytes().splitlines(keepends=True))
    path.write_bytes(content)
    study = study_in(tmp_path)
    (aside,) = tmp_path.glob(f"{JOURNAL}.damaged-*")
    assert content.endswith(aside.read_bytes())
    lost = len(aside.read_bytes().splitlines())
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {path} was damaged at its end: the search goes on from what stands before")
    assert f"({lost} of {whole + lost} entries left out, kept in {aside.name})" in said
    before = [trial.number for trial in study.own()]
    number, _ = study.ask()
    study.tell(number, "complete", [0.5])
    assert [trial.number for trial in study_in(tmp_path).own()] == [*before, len(before)]
    assert capsys.readouterr().err == ""
    assert len(path.read_bytes().splitlines()) > whole


@pytest.mark.parametrize("content", [b"", b"\n", b"{"])
def test_a_journal_without_an_entry_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / JOURNAL).write_bytes(content)
    assert filled(tmp_path).own()[2].values == (0.4,)


def test_a_whole_journal_is_left_as_it_is(tmp_path: Path) -> None:
    filled(tmp_path)
    before = (tmp_path / JOURNAL).read_bytes()
    mend(tmp_path / JOURNAL)
    mend(tmp_path / "none")
    assert (tmp_path / JOURNAL).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [JOURNAL]


def test_a_trial_whose_point_was_cut_short_gets_the_rest_of_it(tmp_path: Path) -> None:
    whole = study_in(tmp_path / "whole")
    fixed = {"optimizer.lr": 0.01, "optimizer.name": "sgd", "optimizer.momentum": 0.5}
    points = [whole.ask(fixed)[1], whole.ask()[1], whole.ask()[1]]
    lines = whole.path.read_bytes().splitlines(keepends=True)
    for kept in range(len(lines)):
        folder = tmp_path / str(kept)
        folder.mkdir()
        (folder / JOURNAL).write_bytes(b"".join(lines[:kept]))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = study_in(folder).own()
        assert {trial.state for trial in found} <= {"running"}
        for trial, point in zip(found, points, strict=False):
            assert ("optimizer.momentum" in trial.point) == (trial.point["optimizer.name"] == "sgd")
            assert trial.point["optimizer.lr"] == point["optimizer.lr"]  # the first that was stored
        assert not found or found[0].point == points[0]


def test_a_trial_that_was_killed_while_it_ended_is_still_running(tmp_path: Path) -> None:
    whole = filled(tmp_path / "whole", 1)
    lines = whole.path.read_bytes().splitlines(keepends=True)
    for kept in range(8, len(lines)):
        folder = tmp_path / str(kept)
        folder.mkdir()
        (folder / JOURNAL).write_bytes(b"".join(lines[:kept]))
        study = study_in(folder)
        assert {trial.state for trial in study.own()} <= {"running"}
        assert study.best() == []


def test_a_full_disk_is_one_message_and_what_was_told_stays(tmpfs: Callable[[str], Path]) -> None:
    folder = tmpfs("64k")
    study = study_in(folder)
    number, _ = study.ask()
    study.tell(number, "complete", [0.5])
    told = [number]

    def tell_until_full() -> None:
        while len(told) < 500:
            number, _ = study.ask()
            study.tell(number, "complete", [0.5], error="x" * 500)
            told.append(number)

    with pytest.raises(ScaledlError, match=r"cannot write the journal of the search .*: no space left on the disk"):
        tell_until_full()
    assert len(told) > 5
    found = read_study(folder, study.config, study.space).own()
    assert [trial.number for trial in found if trial.values] == told


def test_a_folder_that_cannot_be_written(tmpfs: Callable[[str], Path], remount: Callable[[Path, str], None]) -> None:
    folder = tmpfs("64k")
    study = filled(folder, 1)
    remount(folder, "ro")
    with pytest.raises(ScaledlError, match=r"cannot write the journal of the search .*: the filesystem is read-only"):
        study.ask()
    assert len(read_study(folder, study.config, study.space).own()) == 1


# Readers


def test_a_reader_never_writes(tmp_path: Path) -> None:
    study = filled(tmp_path)
    (tmp_path / JOURNAL).write_bytes((tmp_path / JOURNAL).read_bytes()[:-5])
    before = (tmp_path / JOURNAL).read_bytes()
    found = read_study(tmp_path, study.config, study.space)
    assert [trial.state for trial in found.own()] == ["complete", "complete", "running"]
    assert (tmp_path / JOURNAL).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [JOURNAL]


def test_a_reader_while_a_writer_writes(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    over, seen = threading.Event(), []

    def read() -> None:
        while not over.is_set():
            seen.append(len(read_study(tmp_path, study.config, study.space).own()))

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        for i in range(25):
            number, _ = study.ask()
            study.tell(number, "complete", [0.01 * i])
        over.set()
        reader.result()
    assert seen == sorted(seen)
    assert seen[-1] > 1


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "holds no search: no study.journal in it"),
        (b"", "has not begun: no search in its study.journal yet"),
        (b"garbage\n{}\n", "is damaged; going on with the search mends it: --resume"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, content: bytes | None, part: str) -> None:
    if content is not None:
        (tmp_path / JOURNAL).write_bytes(content)
    config = search_config(tmp_path)
    with pytest.raises(UsageError, match=part):
        read_study(tmp_path, config, space_of(config))


# What is best


@pytest.mark.parametrize(
    ("objectives", "values", "best"),
    [
        ({"val_accuracy": "max"}, [[0.1], [0.3], [0.3], [0.2]], [1]),
        ({"val_loss": "min"}, [[0.4], [0.3], [0.3], [0.5]], [1]),
        (FRONT, [[0.9, 0.5], [0.8, 0.1], [0.8, 0.2], [0.7, 0.05], [0.9, 0.5]], [0, 1, 3, 4]),
        (FRONT, [[0.9, 0.1], [0.8, 0.2]], [0]),
        (FRONT, [], []),
    ],
)
def test_the_best(tmp_path: Path, objectives: dict[str, str], values: list[list[float]], best: list[int]) -> None:
    study = study_in(tmp_path, objectives=objectives)
    for value in values:
        study.tell(study.ask()[0], "complete", value)
    study.tell(study.ask()[0], "failed", error="x")
    study.tell(study.ask()[0], "nonfinite")
    study.ask()
    assert [trial.number for trial in study.best()] == best
    among = [trial for trial in study.own() if trial.number != 0]
    assert 0 not in [trial.number for trial in study.best(among)]


def test_a_value_that_is_not_a_number_is_no_result(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    number, _ = study.ask()
    study.report(number, 1, math.nan)
    study.tell(number, "nonfinite", error="NaN")
    trial = study.own()[0]
    assert (trial.state, trial.values, dict(trial.curve)) == ("nonfinite", (), {})
    assert [json.loads(line) for line in study.path.read_bytes().splitlines()]


# Trials of another search


def test_known_trials_are_taken_as_far_as_the_space_holds_them(tmp_path: Path) -> None:
    earlier = study_in(tmp_path / "earlier")
    for lr, name in ((0.01, "adamw"), (0.09, "sgd"), (0.02, "sgd")):
        fixed = {"optimizer.lr": lr, "optimizer.name": name, "optimizer.momentum": 0.5}
        earlier.tell(earlier.ask(fixed)[0], "complete", [lr])
    earlier.tell(earlier.ask()[0], "failed", error="x")
    earlier.ask()
    narrow = study_in(tmp_path / "new", {**SPACE, "optimizer.lr": {"loguniform": [1e-4, 0.05]}})
    assert narrow.add_known(earlier.own(), "s/x") == 2
    assert [trial.point["optimizer.lr"] for trial in narrow.trials()] == [0.01, 0.02]
    assert narrow.own() == narrow.best() == []
    number, _ = narrow.ask()
    narrow.tell(number, "complete", [0.001])
    again = study_in(tmp_path / "new", {**SPACE, "optimizer.lr": {"loguniform": [1e-4, 0.05]}})
    assert [trial.number for trial in again.best()] == [number] == [2]


def test_known_trials_of_another_space_or_with_other_objectives_are_left_out(tmp_path: Path) -> None:
    earlier = filled(tmp_path / "earlier")
    assert study_in(tmp_path / "a", {"data.batch_size": [16, 32]}).add_known(earlier.own(), "s/x") == 0
    assert study_in(tmp_path / "b", objectives=FRONT).add_known(earlier.own(), "s/x") == 0


def test_the_config_of_a_study_is_what_its_conditions_see(tmp_path: Path) -> None:
    space = {"optimizer.momentum": SPACE["optimizer.momentum"], "optimizer.lr": [0.1, 0.2]}
    for name, keys in (("sgd", {"optimizer.momentum", "optimizer.lr"}), ("adamw", {"optimizer.lr"})):
        config: Config = replace(search_config(tmp_path, space), {"optimizer.name": name})
        (tmp_path / name).mkdir()
        assert set(Study(tmp_path / name, config, space_of(config)).ask()[1]) == keys


def test_a_damaged_end_that_cannot_be_kept_is_not_cut_off(
    tmp_path: Path, tmpfs: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmpfs("64k")
    (disk / "s").mkdir()
    path = filled(disk / "s").path
    content = path.read_bytes() + b"x" * 3000
    path.write_bytes(content)
    (disk / "filler").write_bytes(b"0" * (disk_free(disk)))
    with pytest.raises(ScaledlError, match="no space left on the disk"):
        mend(path)
    assert path.read_bytes() == content
    (disk / "filler").unlink()
    mend(path)
    assert len(path.read_bytes()) == len(content) - 3000
    assert "kept in" in capsys.readouterr().err


def disk_free(path: Path) -> int:
    import shutil

    return shutil.disk_usage(path).free
