"""Searches of real trainings on a real Ray: workers, driver and disk taken away from them."""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
INTERRUPT = pytest.param(signal.SIGINT, 130, marks=pytest.mark.exhaustive)

SPACE = """\
data: {source: digits, batch_size: 64}
model: {family: mlp, hidden: [32]}
trainer: {epochs: 4, precision: fp32}
tune:
  scheduler: none
  space:
    optimizer.lr: {loguniform: [1e-4, 1e-1]}
    model.hidden: [[16], [32], [64, 32]]
"""
EPOCHS = 150  # some seconds: a trial is still in work when something is killed
SLOW = SPACE.replace("epochs: 4", f"epochs: {EPOCHS}")
MARK = "SCALEDL_TEST_MARK"
TWO_NODES = Path(__file__).parents[1] / "two_nodes.py"
Started = subprocess.Popen[str]


class Place:
    """A folder in which searches are started; every process of one carries a mark in its environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = secrets.token_hex(8)

    def write(self, text: str) -> None:
        (self.folder / "s.yaml").write_text(text)

    def start(self, *arguments: str, two_nodes: bool = False) -> Started:
        program = [str(TWO_NODES)] if two_nodes else ["-m", "scaledl.cli"]
        return subprocess.Popen(
            [sys.executable, *program, "tune", *arguments],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, MARK: self.mark},
        )

    def tune(self, *arguments: str) -> tuple[int, str]:
        return finish(self.start(*arguments))

    def show(self, path: str = "runs/s/x") -> dict[str, Any]:
        code, text = finish(self.start("--show", path, "--json"), out_only=True)
        assert code == 0, text
        found: dict[str, Any] = json.loads(text)
        return found

    def processes(self, name: str = "") -> list[int]:
        """Processes of the searches started here, by a part of their command line."""
        return [pid for pid, command in marked(self.mark) if name in command]

    def checkpoints(self) -> set[Path]:
        return set(self.folder.glob("runs/s/x/trials/*/checkpoints/step-*.json"))

    def wait_for_trial(self, number: int, process: Started, epochs: int = 1) -> None:
        """Until this trial has a checkpoint after so many epochs."""
        folder = self.folder / f"runs/s/x/trials/{number:04d}/checkpoints"
        wait_for(lambda: len(list(folder.glob("step-*.json"))) >= epochs, process)


def marked(mark: str) -> Iterator[tuple[int, str]]:
    """Ray's workers write their name over their environment: they are known by their parents."""
    parents: dict[int, int] = {}
    commands: dict[int, str] = {}
    known: set[int] = set()
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if not entry.name.isdigit():
                continue
            pid = int(entry.name)
            parents[pid] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            commands[pid] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                known.add(pid)
    for pid, command in commands.items():
        ancestor = pid
        while ancestor and ancestor not in known:
            ancestor = parents.get(ancestor, 0)
        if ancestor:
            yield pid, command


def finish(process: Started, *, out_only: bool = False) -> tuple[int, str]:
    out, err = process.communicate(timeout=400)
    assert "Traceback" not in err, err
    return process.returncode, out if out_only else out + err


def wait_for(condition: Callable[[], bool], process: Started) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    place.write(SPACE)
    yield place
    deadline = time.monotonic() + 20
    while (left := place.processes()) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, "processes of the search outlived it"


def states(document: dict[str, Any]) -> list[str]:
    return [trial["state"] for trial in document["trials"]]


def test_a_search_finds_a_config_that_trains_as_it_stands(place: Place) -> None:
    code, text = place.tune("s.yaml", "--trials", "6", "--id", "x")
    assert code == 0, text
    assert re.findall(r"best so far: trial \d  val_accuracy 0\.\d+ ", text)  # which one ends first is chance
    document = place.show()
    assert states(document) == ["complete"] * 6
    assert document["trials"][0]["point"]["optimizer.lr"] == 1e-3  # the config as it is
    best = document["trials"][document["best"][0]]
    assert best["values"]["val_accuracy"] == max(trial["values"]["val_accuracy"] for trial in document["trials"])
    kept = [path.parent.name for path in (place.folder / "runs/s/x/trials").glob("*/model")]
    assert kept == [f"{document['best'][0]:04d}"]  # the others' weights are gone
    trained = subprocess.run(
        [sys.executable, "-m", "scaledl.cli", "train", "runs/s/x/best.yaml", "--json"],
        cwd=place.folder,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert trained.returncode == 0, trained.stderr
    metrics = json.loads(trained.stdout)["metrics"]
    assert metrics["val_accuracy"] == pytest.approx(best["values"]["val_accuracy"], abs=1e-6)
    code, text = place.tune("s.yaml", "--trials", "6", "--id", "x")
    assert code == 0
    assert "already complete" in text
    code, text = place.tune("s.yaml", "--trials", "8", "--id", "x")
    assert code == 0, text
    assert states(place.show()) == ["complete"] * 8


def test_a_killed_worker_costs_its_trial_nothing_but_time(place: Place) -> None:
    place.write(SLOW)
    process = place.start("s.yaml", "--trials", "3", "--id", "x")
    for number in (0, 1):
        place.wait_for_trial(number, process, epochs=2)
    workers = place.processes("ray::ResourceTrainable")
    assert len(workers) >= 2, workers
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    code, text = finish(process)
    assert code == 0, text
    assert "it starts again from its last checkpoint (attempt 2)" in text
    trials = place.show()["trials"]
    assert [trial["state"] for trial in trials] == ["complete"] * 3
    assert [trial["attempts"] for trial in trials] == [2, 2, 1]
    log = (place.folder / "runs/s/x/trials/0001/log.txt").read_text()
    assert "resumed from epoch" in log
    epochs = [int(epoch) for epoch in trials[1]["curve"]]
    assert epochs == list(range(1, EPOCHS + 1))  # each told once


@pytest.mark.exhaustive
def test_a_lost_node_without_another_ends_the_search_and_resume_goes_on(place: Place) -> None:
    place.write(SLOW)
    folders = folders_of_ray()
    process = place.start("s.yaml", "--trials", "3", "--id", "x")
    place.wait_for_trial(1, process)
    [raylet] = place.processes("raylet/raylet")
    os.kill(raylet, signal.SIGKILL)
    began = time.monotonic()
    code, text = finish(process)
    assert code == 1, text
    assert time.monotonic() - began < 60
    assert "every trial that ended is kept" in text
    wait_for_none(place)
    assert folders_of_ray() <= folders
    code, text = place.tune("--resume")
    assert code == 0, text
    assert states(place.show()) == ["complete"] * 3


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(20 if os.environ.get("SCALEDL_EXHAUSTIVE") == "1" else 1))
def test_killed_at_random_moments_every_trial_ends_once_and_misses_no_epoch(place: Place, seed: int) -> None:
    """Fault 46: workers, drivers and raylets are killed until the search is through."""
    place.write(SLOW)
    chance = random.Random(seed)
    for victim in chance.sample(["driver", "ray::ResourceTrainable", "raylet/raylet"], 3):
        process = place.start("s.yaml", "--trials", "6", "--id", "x")
        known = place.checkpoints()
        with suppress(AssertionError):  # it was through before
            wait_for(lambda known=known: bool(place.checkpoints() - known), process)  # type: ignore[misc]
            time.sleep(chance.uniform(0, 1.5))
            for pid in [process.pid] if victim == "driver" else place.processes(victim)[:1]:
                os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=400)
        wait_for_none(place)
    code, text = place.tune("s.yaml", "--trials", "6", "--id", "x")
    assert code == 0, text
    trials = place.show()["trials"]
    assert [(trial["number"], trial["state"]) for trial in trials] == [(number, "complete") for number in range(6)]
    told = {trial["number"]: [int(epoch) for epoch in trial["curve"]] for trial in trials}
    assert told == {number: list(range(1, EPOCHS + 1)) for number in range(6)}


def test_a_lost_node_costs_its_trials_time_and_the_search_goes_on_with_fewer_slots(place: Place) -> None:
    place.write(SPACE.replace("epochs: 4", f"epochs: {2 * EPOCHS}"))  # none has ended when both have begun
    process = place.start("s.yaml", "--trials", "4", "--id", "x", two_nodes=True)
    for number in (0, 1):  # either may run on the node that is lost
        place.wait_for_trial(number, process)
    raylets = place.processes("raylet/raylet")
    assert len(raylets) == 2
    os.kill(max(raylets), signal.SIGKILL)  # the head's came first
    code, text = finish(process)
    assert code == 0, text
    trials = place.show()["trials"]
    assert [trial["state"] for trial in trials] == ["complete"] * 4
    assert sorted(trial["attempts"] for trial in trials) == [1, 1, 1, 2]
    retried = next(trial["number"] for trial in trials if trial["attempts"] == 2)
    assert "resumed from epoch" in (place.folder / f"runs/s/x/trials/{retried:04d}/log.txt").read_text()


@pytest.mark.exhaustive
def test_a_search_goes_on_with_another_number_of_nodes(place: Place) -> None:
    place.write(SLOW)
    process = place.start("s.yaml", "--trials", "4", "--id", "x", two_nodes=True)
    place.wait_for_trial(2, process)
    process.kill()
    process.communicate()
    wait_for_none(place)
    code, text = place.tune("--resume", "tune.cpus=2")
    assert code == 0, text
    assert "1 trial at a time" in text
    assert states(place.show()) == ["complete"] * 4


def test_a_killed_driver_leaves_nothing_running_and_resume_keeps_all(place: Place) -> None:
    place.write(SLOW)
    process = place.start("s.yaml", "--trials", "6", "--id", "x")
    place.wait_for_trial(2, process)
    process.kill()
    process.communicate()
    wait_for_none(place)
    before = {trial["number"]: trial for trial in place.show()["trials"] if trial["state"] == "complete"}
    assert before
    code, text = place.tune("--resume")
    assert code == 0, text
    trials = place.show()["trials"]
    assert [trial["number"] for trial in trials] == list(range(6))
    assert [trial["state"] for trial in trials] == ["complete"] * 6
    for number, trial in before.items():
        assert trials[number] == trial
    assert "resumed from epoch" in (place.folder / "runs/s/x/trials/0002/log.txt").read_text()


def folders_of_ray() -> set[Path]:
    return set(Path("/tmp").glob("sdl-*"))


def wait_for_none(place: Place) -> None:
    deadline = time.monotonic() + 20
    while place.processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not place.processes()


@pytest.mark.parametrize(("signum", "expected"), [(signal.SIGTERM, 75), INTERRUPT])
def test_a_stop_signal_ends_all_and_says_how_to_go_on(place: Place, signum: int, expected: int) -> None:
    place.write(SLOW)
    process = place.start("s.yaml", "--trials", "6")
    wait_for(lambda: any(place.folder.glob("runs/s/2*/trials/0000/checkpoints/step-*.json")), process)
    began = time.monotonic()
    process.send_signal(signum)
    code, text = finish(process)
    assert code == expected, text
    assert "To go on: " in text
    assert "tune --resume" in text
    assert time.monotonic() - began < 30
    wait_for_none(place)
    code, text = place.tune("--resume", "tune.trials=2")
    assert code == 0, text


def test_a_trial_without_finite_loss_is_marked_and_a_bad_one_stops_only_itself(place: Place) -> None:
    place.write(
        SPACE.replace("optimizer.lr: {loguniform: [1e-4, 1e-1]}", "optimizer.lr: [1e-3, 1e30]")
        + "    data.batch_size: [64, 1000000]\n  search: grid\n"
    )
    code, text = place.tune("s.yaml", "--id", "x", "optimizer.name=sgd", "trainer.max_nonfinite_steps=0")
    assert code == 0, text
    trials = place.show()["trials"]
    found = {(t["point"]["optimizer.lr"], t["point"]["data.batch_size"]): t for t in trials}
    assert len(trials) == 12
    assert found[1e30, 64]["state"] == "nonfinite"
    assert found[1e30, 64]["attempts"] == 1
    assert found[1e-3, 64]["state"] == "complete"


def test_a_full_disk_stops_only_the_trial_that_filled_it(place: Place, tmpfs: Callable[[str], Path]) -> None:
    disk = tmpfs("24m")
    place.write(SPACE.replace("[[16], [32], [64, 32]]", "[[16], [6000, 600]]") + "  search: grid\n")
    text = (place.folder / "s.yaml").read_text().replace("{loguniform: [1e-4, 1e-1]}", "[1e-3, 1e-2]")
    place.write(text)
    code, text = place.tune("s.yaml", "--id", "x", f"run.root={disk}")
    assert code == 0, text
    trials = place.show(str(disk / "s/x"))["trials"]
    by_size = {json.dumps(t["point"]["model.hidden"]): t for t in trials}
    assert by_size["[16]"]["state"] == "complete"
    assert by_size["[6000, 600]"]["state"] == "failed"
    assert "no space left on the disk" in by_size["[6000, 600]"]["error"]


def test_what_cannot_work_is_said_at_once(place: Place) -> None:
    began = time.monotonic()
    code, text = place.tune("s.yaml", "tune.cpus=4000")
    assert code == 2
    assert "tune.cpus: got 4000" in text
    code, text = place.tune("s.yaml", "--address", "127.0.0.1:9")
    assert code == 2
    assert "127.0.0.1:9" in text
    assert time.monotonic() - began < 60
    assert place.tune("s.yaml", "--trials", "1", "--id", "x", "trainer.epochs=1")[0] == 0
    code, text = place.tune("s.yaml", "--trials", "2", "--id", "x", "tune.space.optimizer.lr={uniform: [0.1, 0.2]}")
    assert code == 2
    assert "another space" in text


@pytest.mark.exhaustive
def test_trials_of_two_ranks_survive_the_loss_of_one(place: Place) -> None:
    place.write(SLOW)
    process = place.start("s.yaml", "--trials", "2", "--id", "x", "trainer.devices=2")
    place.wait_for_trial(0, process, epochs=2)
    ranks = [pid for pid in place.processes("trial_ranks") if b"RANK=1" in Path(f"/proc/{pid}/environ").read_bytes()]
    os.kill(ranks[-1], signal.SIGKILL)
    code, text = finish(process)
    assert code == 0, text
    trials = place.show()["trials"]
    log = (place.folder / "runs/s/x/trials/0000/log.txt").read_text()
    assert [trial["state"] for trial in trials] == ["complete"] * 2, trials[0].get("error", "") + text + log
    assert trials[0]["attempts"] == 2
    assert "resumed from epoch" in log


def test_a_recipe_is_searched_and_its_best_compresses(place: Place) -> None:
    trained = [sys.executable, "-m", "scaledl.cli", "train", "s.yaml", "--id", "base"]
    assert subprocess.run(trained, cwd=place.folder, capture_output=True, timeout=200).returncode == 0
    code, text = place.tune(
        *("s/base", "--verb", "compress", "--method", "prune", "--trials", "2", "--id", "x", "prune.epochs=1"),
        "tune.space.prune.ratio={uniform: [0.1, 0.7]}",
        "tune.objectives={val_accuracy: max, size_bytes: min}",
    )
    assert code == 0, text
    document = place.show()
    assert states(document) == ["complete"] * 2
    assert document["trials"][0]["point"] == {"prune.ratio": 0.5}  # the recipe as it is
    assert all(trial["values"]["size_bytes"] > 0 for trial in document["trials"])
    done = subprocess.run(
        [*trained[:3], "compress", "s/base", "--recipe", document["best_configs"][0]],
        cwd=place.folder,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
