"""Real trainings under a real Slurm: two nodes, stopped, killed and preempted in every way, and gone on with."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.slurm.conftest import Project
from tests.slurm_cluster import Layout, SlurmCluster, wait_until

from scaledl.run import sha256_file

pytestmark = pytest.mark.integration

CONFIG = "configs/tiny.yaml"
TWO = ["--nodes=2"]
ENDLESS = "trainer.epochs=200000"
EVERY = os.environ.get("SCALEDL_EXHAUSTIVE") == "1"
StartSlurm = Callable[[Layout], SlurmCluster]
MakeProject = Callable[[SlurmCluster], Project]


@pytest.fixture
def real(project: Project) -> Project:
    return project


def venv() -> dict[str, str]:
    import sys

    return {"SCALEDL_VENV": str(Path(sys.executable).parents[1])}


def submit(project: Project, *arguments: str, options: list[str] | None = None) -> str:
    return project.submit(CONFIG, *arguments, options=TWO if options is None else options, **venv())


def weights(project: Project, job: str) -> str:
    return sha256_file(project.run(job) / "model" / "weights.safetensors")


def wait_for_requeue(project: Project, job: str, count: int = 1) -> None:
    wait_until(lambda: project.slurm.restarts(job) >= count, 30, lambda: project.slurm.log(job))


def test_the_literal_command_on_two_nodes(real: Project) -> None:
    job = submit(real)
    real.slurm.wait_for(job, "COMPLETED")
    manifest = real.manifest(job)
    assert (manifest["status"], manifest["world_size"], manifest["attempts"]) == ("complete", 2, 1)
    assert manifest["metrics"]["test_accuracy"] > 0
    log = real.slurm.log(job)
    assert f"run runs/tiny/{job}" in log
    assert "Traceback" not in log
    assert "Warning" not in log
    assert not real.status_folder(job).exists()


def test_stopped_by_the_walltime_signal_the_job_goes_on_as_if_nothing_had_been(real: Project) -> None:
    """USR1, requeue, the same run; the losses and the weights are those of a run that nobody stopped."""
    job = submit(real, "trainer.epochs=150")
    whole = submit(real, "trainer.epochs=150")
    real.wait_for_step(job, 1)
    began = time.monotonic()
    real.slurm.signal(job, "USR1", batch=True)
    wait_for_requeue(real, job)
    assert time.monotonic() - began < 10
    assert real.manifest(job)["status"] == "preempted"
    real.slurm.release(job)
    real.slurm.wait_for(job, "COMPLETED")
    real.slurm.wait_for(whole, "COMPLETED")
    log = real.slurm.log(job)
    assert log.count("error: stopped by SIGUSR1; checkpoint saved") == 1, log
    assert "resumed from epoch" in log
    assert "(attempt 2)" in log
    assert log.index("the ranks save and leave") < log.index("resumed from epoch"), "one log for all attempts"
    assert real.losses(job) == real.losses(whole)
    assert weights(real, job) == weights(real, whole)


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.exhaustive), 1])
def test_a_signal_to_one_rank_stops_all_at_the_same_step(real: Project, rank: int) -> None:
    job = submit(real, ENDLESS)
    status = real.wait_for_step(job, 1, rank=rank)
    os.kill(status.pid, signal.SIGTERM)
    wait_for_requeue(real, job)
    log = real.slurm.log(job)
    assert log.count("error: stopped by SIGTERM; checkpoint saved") == 1, log
    found = [real.status(job, number) for number in (0, 1)]
    assert [status and status.status for status in found] == ["preempted", "preempted"]
    assert len({status.step for status in found if status}) == 1
    assert len(list((real.run(job) / "checkpoints").glob("step-*.ckpt"))) <= 3


def test_a_rank_that_is_killed_ends_the_job_and_is_named(real: Project) -> None:
    job = submit(real, ENDLESS, "trainer.checkpoint_every_n_steps=20")
    status = real.wait_for_step(job, 40, rank=1)
    began = time.monotonic()
    os.kill(status.pid, signal.SIGKILL)
    wait_for_requeue(real, job)
    assert time.monotonic() - began < 15
    log = real.slurm.log(job)
    assert f"rank 1 on n2 (process {status.pid}) was killed by SIGKILL (signal 9)" in log
    ended = real.status(job, 1)
    assert ended is not None
    assert (ended.status, ended.signal, ended.exit) == ("killed", "SIGKILL", 137)
    real.slurm.release(job)
    assert real.wait_for_step(job, 41, attempt=2).start_step >= 20
    assert "(attempt 2)" in real.slurm.log(job)


def test_another_number_of_nodes_goes_on_with_the_same_run(real: Project) -> None:
    whole = submit(real, "trainer.epochs=60", options=["--nodes=1"])
    real.slurm.wait_for(whole, "COMPLETED")
    job = submit(real, "trainer.epochs=60", "run.id=shared")
    real.wait_for_step(job, 1)
    real.slurm.signal(job, "USR1", batch=True)
    wait_for_requeue(real, job)
    real.slurm.scancel(job)
    second = submit(real, "trainer.epochs=60", "run.id=shared", options=["--nodes=1"])
    real.slurm.wait_for(second, "COMPLETED")
    manifest = real.manifest("shared")
    assert (manifest["status"], manifest["world_size"], manifest["attempts"]) == ("complete", 1, 2)
    assert real.losses("shared") == pytest.approx(real.losses(whole), abs=1e-5)


@pytest.mark.parametrize("preempt", ["user signal", "term"] if EVERY else ["term"])
def test_preempted_by_a_job_of_a_better_partition(
    preempt: Any, start_slurm: StartSlurm, make_project: MakeProject
) -> None:
    """Within the grace time: a checkpoint; then pending, and on again when the other job is done."""
    project = make_project(start_slurm(Layout(preempt=preempt)))
    job = submit(project, ENDLESS, options=[*TWO, "--partition=low", "--cpus-per-task=2"])
    project.wait_for_step(job, 1)
    other = submit(project, options=[*TWO, "--partition=high", "--cpus-per-task=2"])
    project.slurm.wait_for(other, "COMPLETED")
    assert project.manifest(job)["status"] == "preempted"
    assert project.slurm.restarts(job) == 1
    if project.slurm.state(job) == "PENDING":
        project.slurm.release(job)
    assert project.wait_for_step(job, 1, attempt=2).start_step > 0


def test_a_second_job_on_the_same_run_is_told_who_holds_it(real: Project) -> None:
    first = submit(real, ENDLESS, "run.id=shared", options=["--nodes=1"])
    real.wait_for_step(first, 1)
    second = submit(real, ENDLESS, "run.id=shared", options=["--nodes=1"])
    real.slurm.wait_for(second, "FAILED")
    assert real.slurm.exit_code(second) == 2
    assert "is in use by process" in real.slurm.log(second)
    assert f"(Slurm job {first})" in real.slurm.log(second)


def test_tasks_without_srun_are_told_so(real: Project) -> None:
    """The batch step itself, of a job with two tasks."""
    script = real.folder / "wrong.sh"
    script.write_text(f'#!/bin/sh\n"{venv()["SCALEDL_VENV"]}/bin/scaledl" train {CONFIG}\n')
    job = real.submit(script="wrong.sh", options=["--ntasks=2"])
    real.slurm.wait_for(job, "FAILED")
    assert real.slurm.exit_code(job) == 2
    assert "srun" in real.slurm.log(job)
    assert "Traceback" not in real.slurm.log(job)
