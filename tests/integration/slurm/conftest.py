"""Clusters, and projects to submit from: with scaledl itself, or with a stand-in that ends as a test wants it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.slurm_cluster import Layout, SlurmCluster, missing_component, wait_until

from scaledl.distributed.status import RankStatus, read_status, status_path

ROOT = Path(__file__).parents[3]
TINY = """\
data: {source: digits, batch_size: 256}
model: {family: mlp, hidden: [16]}
trainer: {epochs: 2, num_threads: 1, precision: fp32, timeout_seconds: 30}
compress: {stages: [{method: prune, epochs: 1}]}
"""
TRAIN_SAMPLES = 1295  # of digits, after the validation split

# Plays one rank of scaledl. `train`: $PLAN has an entry for each attempt, the last one stands for all that follow:
#   wait            until a stop signal, then save ten steps further and leave with 75
#   STATUS:CODE     leave the status file so and exit; STATUS:CODE:STAGE in this stage of a compression
#   exit:CODE       no status file
#   die             kill -9 of itself, the status file says `starting`
#   refuse:CODE     rank 0 says why all have to end, and exits; the others wait until they are stopped
STAND_IN = """\
#!{python}
import json, os, signal, sys, time
from pathlib import Path

environ = os.environ
if sys.argv[1:3] == ["config", "show"]:
    settings = dict(word.split("=", 1) for word in sys.argv[3:] if "=" in word)
    print("run:\\n  name: tiny\\n  id: " + settings.get("run.id", "null"))
    print("  root: " + settings.get("run.root", "runs"))
    print("compress:\\n  stages: " + settings.get("stages", "[prune]") + "\\nexport:")
    sys.exit(int("bad" in sys.argv) * 2)
came = []
for name in ("SIGUSR1", "SIGTERM"):
    signal.signal(getattr(signal, name), lambda number, frame: came.append(number))
from scaledl.distributed.cause import publish_cause
from scaledl.distributed.status import RankStatus, write_status

rank, restart = int(environ["SLURM_PROCID"]), int(environ.get("SLURM_RESTART_COUNT", 0))
record = {{"argv": sys.argv[1:], "env": dict(environ), "affinity": sorted(os.sched_getaffinity(0))}}
Path("calls").mkdir(exist_ok=True)
call = environ["SLURM_JOB_ID"] + "-" + str(restart) + "-" + str(rank) + ".json"
Path("calls", call + "~").write_text(json.dumps(record))
plan = (environ.get("PLAN", "complete:0") if sys.argv[1] == "train" else "complete:0").split(",")
kind, code, stage = (plan[min(restart, len(plan) - 1)] + "::").split(":")[:3]
launch = "slurm-" + environ["SLURM_JOB_ID"] + "." + environ["SLURM_STEP_ID"] + "-r" + str(restart)


def tell(status, **more):
    place = dict(rank=rank, host=environ["SLURMD_NODENAME"], pid=os.getpid(), attempt=restart + 1)
    write_status(Path(environ["SCALEDL_STATUS_DIR"]), RankStatus(launch, status, **place, **more))


if kind not in ("exit",):
    tell("starting")
Path("calls", call + "~").rename(Path("calls", call))
print("ready", rank, flush=True)
if kind == "refuse" and rank == 0:
    cause = RankStatus(launch, "refused", attempt=restart + 1, message="as the plan says")
    publish_cause(Path(environ["SCALEDL_STATUS_DIR"]), cause)
    while not list(Path("calls").glob(environ["SLURM_JOB_ID"] + "-*-1.json")):
        time.sleep(0.01)
    kind = "refused"
if kind in ("wait", "refuse"):
    while not came:
        time.sleep(0.01)
    tell("preempted", step=10 * restart + 10, start_step=10 * restart, exit=75)
    sys.exit(75)
if kind == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if kind != "exit":
    step = 0 if kind != "complete" else 10 * restart + 10
    tell(kind, exit=int(code), step=step, stage=int(stage or 0), message="as the plan says")
sys.exit(int(code))
"""


@dataclass(frozen=True)
class Call:
    """One rank of one attempt, as the stand-in saw it."""

    argv: list[str]
    env: dict[str, str]
    affinity: list[int]


@dataclass(frozen=True)
class Project:
    """A folder that jobs are submitted from."""

    folder: Path
    slurm: SlurmCluster

    def submit(
        self,
        *arguments: str,
        script: str = "slurm/train.sh",
        options: Sequence[str] = (),
        **env: str,
    ) -> str:
        fast = {"SCALEDL_REQUEUE_SECONDS": "20"}
        own = {"SCALEDL_VENV": str(self.folder / ".venv")} if (self.folder / ".venv").exists() else {}
        options = ("--time=5", "--cpus-per-task=1", *options)
        return self.slurm.sbatch(script, *arguments, cwd=self.folder, options=options, env={**fast, **own, **env})

    def calls(self, job: str, restart: int = 0) -> list[Call]:
        """The ranks of an attempt, in order."""
        paths = sorted(
            (self.folder / "calls").glob(f"{job}-{restart}-*.json"), key=lambda path: int(path.stem.split("-")[2])
        )
        return [Call(**json.loads(path.read_text())) for path in paths]

    def wait_for_ranks(self, job: str, count: int = 1, restart: int = 0) -> list[Call]:
        """Until the stand-in's ranks of an attempt are up."""
        wait_until(lambda: len(self.calls(job, restart)) == count, 30, lambda: self.slurm.log(job))
        return self.calls(job, restart)

    def status_folder(self, job: str) -> Path:
        return self.folder / "runs" / ".slurm" / job

    def status(self, job: str, rank: int = 0) -> RankStatus | None:
        return read_status(status_path(self.status_folder(job), rank))

    def wait_for_step(self, job: str, step: int, rank: int = 0, attempt: int = 1, timeout: float = 60) -> RankStatus:
        """Until this rank's status file, in this attempt or a later one, says that it has come so far."""
        found: RankStatus | None = None

        def there() -> bool:
            nonlocal found
            found = self.status(job, rank)
            return found is not None and found.status == "running" and found.step >= step and found.attempt >= attempt

        wait_until(there, timeout, lambda: f"{found}\n{self.slurm.log(job)}")
        assert found is not None
        return found

    def run(self, job: str) -> Path:
        return self.folder / "runs" / "tiny" / job

    def manifest(self, job: str) -> dict[str, Any]:
        return dict(json.loads((self.run(job) / "manifest.json").read_text()))

    def metrics(self, job: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.run(job) / "metrics.jsonl").read_text().splitlines()]

    def losses(self, job: str) -> list[float]:
        """Of every optimizer step."""
        return [loss for record in self.metrics(job) if record["kind"] == "train" for loss in record["losses"]]

    def checkpoints(self, job: str) -> list[str]:
        """All files there that belong to a checkpoint, or to one that was never finished."""
        return sorted(path.name for path in (self.run(job) / "checkpoints").iterdir() if path.name != "settings.json")


@dataclass(frozen=True)
class Event:
    """Something that a rank told from a hook of `fault_hooks.py`."""

    rank: int
    restart: int
    pid: int
    time: float
    what: Any


@dataclass(frozen=True)
class FaultyProject(Project):
    """A project whose ranks wait, dawdle or err where `fault_hooks.py` is told to: `train(FAULT_SLOW="1:0.5")`."""

    def train(self, *overrides: str, options: Sequence[str] = ("--nodes=2",), **faults: str) -> str:
        return self.submit("configs/tiny.yaml", *overrides, options=options, **self.faults(**faults))

    def faults(self, **faults: str) -> dict[str, str]:
        """Variables for a job."""
        return {"PYTHONPATH": str(self.folder / "hooks"), "FAULT_FOLDER": str(self.folder / "faults"), **faults}

    def events(self, name: str) -> list[Event]:
        path = self.folder / "faults" / name
        return [Event(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for_events(self, job: str, name: str, count: int = 1, timeout: float = 60) -> list[Event]:
        """Until so many ranks told of this."""

        def there() -> bool:
            return len({event.rank for event in self.events(name)}) >= count

        wait_until(there, timeout, lambda: f"{name}: {self.events(name)}; the log:\n{self.slurm.log(job)}")
        return self.events(name)

    def assert_each_sample_once(self, epochs: int = 2) -> None:
        """In each epoch, over all ranks and all attempts of the only job."""
        seen = [(event.what["epoch"], id) for event in self.events("batches") for id in event.what["ids"]]
        assert len(seen) == len(set(seen)) == epochs * TRAIN_SAMPLES


def _require_slurm() -> None:
    missing = missing_component()
    reason = f"{missing} is not installed: apt install slurm-wlm munge" if missing else None
    if reason is None and os.geteuid() != 0:
        reason = "several slurmds on one machine are started as root here"
    if reason is not None and os.environ.get("SCALEDL_REQUIRE_ALL") == "1":
        pytest.fail(f"SCALEDL_REQUIRE_ALL=1, but {reason}")
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def _shared_cluster() -> Iterator[SlurmCluster]:
    _require_slurm()
    with SlurmCluster(Layout()) as slurm:
        yield slurm


@pytest.fixture
def slurm(_shared_cluster: SlurmCluster) -> Iterator[SlurmCluster]:
    """Two nodes, n1 and n2, for tests that leave them as they were. Jobs are cancelled after the test."""
    yield _shared_cluster
    _shared_cluster.cancel_all()


@pytest.fixture
def start_slurm() -> Iterator[Callable[[Layout], SlurmCluster]]:
    """`start_slurm(Layout(...))`: a cluster of the test's own, to be broken."""
    _require_slurm()
    with ExitStack() as stack:
        yield lambda layout: stack.enter_context(SlurmCluster(layout))


@pytest.fixture
def make_project(tmp_path: Path) -> Callable[[SlurmCluster], Project]:
    """`make_project(slurm)`: a project whose environment is the one that runs the tests."""

    def make(slurm: SlurmCluster) -> Project:
        folder = tmp_path / "my project"
        shutil.copytree(ROOT / "slurm", folder / "slurm")
        (folder / "configs").mkdir()
        (folder / "configs" / "tiny.yaml").write_text(TINY)
        return Project(folder, slurm)

    return make


@pytest.fixture
def make_faulty(make_project: Callable[[SlurmCluster], Project]) -> Callable[[SlurmCluster], FaultyProject]:
    """`make_faulty(slurm)`: a project with the real scaledl, and with hooks into it."""

    def make(slurm: SlurmCluster) -> FaultyProject:
        project = FaultyProject(make_project(slurm).folder, slurm)
        (project.folder / "faults").mkdir()
        (project.folder / "hooks").mkdir()
        shutil.copy(Path(__file__).with_name("fault_hooks.py"), project.folder / "hooks" / "sitecustomize.py")
        return project

    return make


@pytest.fixture
def make_stand_in(make_project: Callable[[SlurmCluster], Project]) -> Callable[[SlurmCluster], Project]:
    """`make_stand_in(slurm)`: a project whose environment has the stand-in instead of scaledl."""

    def make(slurm: SlurmCluster) -> Project:
        project = make_project(slurm)
        programs = project.folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        (programs / "activate").write_text(f'PATH="{programs}:$PATH"\n')
        (programs / "scaledl").write_text(STAND_IN.format(python=sys.executable))
        (programs / "scaledl").chmod(0o755)
        return project

    return make


@pytest.fixture
def project(slurm: SlurmCluster, make_project: Callable[[SlurmCluster], Project]) -> Project:
    return make_project(slurm)


@pytest.fixture
def stand_in(slurm: SlurmCluster, make_stand_in: Callable[[SlurmCluster], Project]) -> Project:
    return make_stand_in(slurm)


@pytest.fixture
def faulty(slurm: SlurmCluster, make_faulty: Callable[[SlurmCluster], FaultyProject]) -> FaultyProject:
    return make_faulty(slurm)
