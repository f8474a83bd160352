"""Stop signals at awkward moments of real trainings on two nodes: ranks out of step, workers, saves, any point."""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from tests.integration.slurm.conftest import FaultyProject
from tests.slurm_cluster import wait_until

from scaledl.checkpoint import newest_verified

pytestmark = pytest.mark.integration

EVERY = os.environ.get("SCALEDL_EXHAUSTIVE") == "1"
STEPS = 6  # in an epoch; two epochs
SMALL = "data.batch_size=32"  # 41 steps in an epoch


def assert_one_checkpoint(project: FaultyProject, job: str) -> int:
    """Of the stop, whole, at the step where both ranks stand; returns the step."""
    log = project.slurm.log(job)
    assert log.count("error: stopped by SIGUSR1; checkpoint saved") == 1, log
    assert "Traceback" not in log
    found = [project.status(job, rank) for rank in (0, 1)]
    assert [status and status.status for status in found] == ["preempted", "preempted"]
    [step] = {status.step for status in found if status}
    assert project.checkpoints(job) == [f"step-{step:08}.ckpt", f"step-{step:08}.json"]
    newest = newest_verified(project.run(job) / "checkpoints")
    assert newest is not None
    assert newest[1].step == step
    assert [event.what for event in project.events("saved")] == [step]
    return step


@pytest.mark.parametrize("skew", ["slow", "paused"] if EVERY else ["slow"])
def test_skewed_ranks_stop_at_one_step(skew: str, faulty: FaultyProject) -> None:
    """Fault 1: rank 1 is half a second behind in every step, or stands still while the signal comes."""
    job = faulty.train(SMALL, FAULT_SLOW="1:0.5" if skew == "slow" else "*:0.2")
    rank = faulty.wait_for_step(job, 2, rank=1)
    if skew == "paused":
        os.kill(rank.pid, signal.SIGSTOP)
    began = time.monotonic()
    faulty.slurm.signal(job, "USR1")
    if skew == "paused":
        wait_until(lambda: pending(rank.pid, signal.SIGUSR1), 10)
        os.kill(rank.pid, signal.SIGCONT)
    faulty.slurm.wait_for_requeue(job)
    assert time.monotonic() - began < 10
    assert 2 <= assert_one_checkpoint(faulty, job) < 41


def pending(pid: int, signum: int) -> bool:
    """Whether the signal waits for the process to go on."""
    [mask] = re.findall(r"ShdPnd:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return bool(int(mask, 16) >> (signum - 1) & 1)


def test_workers_ignore_a_signal_to_every_process(faulty: FaultyProject) -> None:
    """Fault 3: batch script, srun, guardians, ranks and their workers get it at once."""
    job = faulty.train(SMALL, "data.num_workers=2", FAULT_SLOW="*:0.2")
    ranks = {faulty.wait_for_step(job, 1, rank=rank).pid for rank in (0, 1)}
    pids = faulty.slurm.processes(SLURM_JOB_ID=job)
    assert len([pid for pid in pids if parent(pid) in ranks]) == 4
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR1)
    faulty.slurm.wait_for_requeue(job)
    assert_one_checkpoint(faulty, job)
    faulty.slurm.release(job)
    faulty.slurm.wait_for(job, "COMPLETED")
    assert faulty.slurm.restarts(job) == 1
    faulty.assert_each_sample_once()


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_more_signals_during_a_save(faulty: FaultyProject) -> None:
    """Fault 4: three, each after the one before has been handled."""
    job = faulty.train(SMALL, FAULT_SLOW="*:0.2", FAULT_POINT="save")
    faulty.wait_for_step(job, 1)
    faulty.slurm.signal(job, "USR1")
    faulty.wait_for_events(job, "reached")
    assert faulty.checkpoints(job) == []
    for _ in range(3):
        before = len(of_rank_0(faulty))
        faulty.slurm.signal(job, "USR1")
        wait_until(lambda before=before: len(of_rank_0(faulty)) > before, 10)  # type: ignore[misc]
    (faulty.folder / "faults" / "go").touch()
    faulty.slurm.wait_for_requeue(job)
    assert len(faulty.events("saves")) == 1
    assert_one_checkpoint(faulty, job)


def of_rank_0(project: FaultyProject) -> list[float]:
    return [event.time for event in project.events("signals") if event.rank == 0]


# Where the ranks are when the signal comes -> what becomes of the job.
POINTS = {
    "python": "requeued",
    "rendezvous": "requeued",
    "preflight": "requeued",
    "data": "requeued",
    "on_fit_start@0": "requeued",
    "on_train_start@0": "requeued",
    "on_train_batch_start@0": "requeued",
    f"on_train_batch_start@{STEPS - 1}": "requeued",
    f"on_train_batch_end@{STEPS}": "requeued",
    f"on_validation_start@{STEPS}": "requeued",
    f"on_validation_batch_end@{STEPS}": "requeued",
    f"on_validation_end@{STEPS}": "requeued",
    f"on_train_epoch_end@{STEPS}": "requeued",
    f"on_train_batch_start@{STEPS}": "requeued",
    f"on_train_batch_start@{2 * STEPS - 2}": "requeued",
    f"on_train_batch_start@{2 * STEPS - 1}": "complete",
    f"on_train_batch_end@{2 * STEPS}": "complete",
    f"on_validation_start@{2 * STEPS}": "complete",
    f"on_train_epoch_end@{2 * STEPS}": "complete",
    f"on_train_end@{2 * STEPS}": "complete",
    "result": "complete",
}
FEW = ("rendezvous", f"on_validation_start@{STEPS}", f"on_train_batch_start@{2 * STEPS - 1}")
OF_RANK_0 = ("data", "result")


@pytest.mark.parametrize("point", POINTS if EVERY else FEW)
def test_a_signal_at_any_point(point: str, faulty: FaultyProject) -> None:
    """Fault 5: never a traceback; saved, requeued and gone on with, or complete. Each step is done once."""
    job = faulty.train(FAULT_POINT=point)
    faulty.wait_for_events(job, "reached", 1 if point in OF_RANK_0 else 2)
    faulty.slurm.signal(job, "USR1")
    if POINTS[point] == "requeued":
        faulty.slurm.release(job)
    faulty.slurm.wait_for(job, "COMPLETED")
    assert faulty.slurm.restarts(job) == (POINTS[point] == "requeued")
    assert "Traceback" not in faulty.slurm.log(job)
    assert faulty.manifest(job)["status"] == "complete"
    assert len(faulty.losses(job)) == 2 * STEPS
    faulty.assert_each_sample_once()
