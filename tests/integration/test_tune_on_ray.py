"""Trials that do nothing on a real Ray: what is left of each in the process of the search."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scaledl.config import Config, load_config, space_of
from scaledl.distributed.ray import local_ray
from scaledl.run import Run
from scaledl.tune.search import Search
from scaledl.tune.slots import Slots
from scaledl.tune.study import Study

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SLOTS = Slots(2, 1, 0)
OVERRIDES = [
    "tune.space.optimizer.lr={loguniform: [1e-4, 1e-1]}",
    "tune.search=random",
    "tune.scheduler=none",
    "tune.keep=none",
]


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    with local_ray(2):
        yield


def search_of(folder: Path, trials: int) -> Search:
    config: Config = load_config(None, [*OVERRIDES, f"tune.trials={trials}"])
    run = Run.create(folder, "test", kind="tune", config=config)
    space = space_of(config)
    return Search(run, config, space, Study(run.path, config, space), trials)


def worker(fails: bool = False) -> Any:
    """A worker class that Ray sends to its processes as it stands: they cannot import this module."""
    from ray.tune import Trainable

    class Noop(Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            if fails:
                raise RuntimeError("no such device")

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

        def step(self) -> dict[str, Any]:
            report = {"state": "complete", "metrics": {"val_accuracy": 0.5}, "epochs": 1, "error": ""}
            return {"report": json.dumps(report), "done": True}

    return Noop


def test_a_thousand_trials_leave_no_memory_and_no_files_behind(tmp_path: Path) -> None:
    from ray.tune.experiment import Trial

    from scaledl.tune.on_ray import run_on_ray

    search = search_of(tmp_path, 1000)
    seen: dict[int, tuple[float, int, int]] = {}

    def look() -> None:
        if search.num_ended % 350 == 0 and search.num_ended not in seen:
            megabytes = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
            files = len([*Path("/proc/self/fd").iterdir()])
            trials = sum(issubclass(type(thing), Trial) for thing in gc.get_objects())
            seen[search.num_ended] = megabytes, files, trials

    search.up()
    run_on_ray(search, lambda assignment: "", SLOTS, on_tick=look, stop_now=lambda: False, worker=worker())
    assert search.num_ended == 1000
    assert {trial.state for trial in search.study.own()} == {"complete"}
    early, late = seen[350], seen[700]
    assert late[0] - early[0] < 5, seen  # of Ray's trials alone it would be 10
    assert late[1] <= early[1] + 2, seen
    assert late[2] < 20, seen


def test_a_worker_that_cannot_begin_says_why_in_few_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from scaledl.tune.on_ray import run_on_ray

    search = search_of(tmp_path, 1)
    search.up()
    run_on_ray(
        search, lambda assignment: "", SLOTS, on_tick=lambda: None, stop_now=lambda: False, worker=worker(fails=True)
    )
    (trial,) = search.study.own()
    assert trial.state == "failed"
    assert trial.error == "its process could not begin (RuntimeError: no such device)"
    assert trial.attempts == 1 + search.config.tune.retries
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == trial.attempts
    assert all("(RuntimeError: no such device)" in line for line in lines)
