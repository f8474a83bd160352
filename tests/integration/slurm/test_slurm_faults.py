"""Other layouts, ports that are taken, collectives that do not fit, orphans, and chains, with real trainings."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.slurm.conftest import FaultyProject, Project
from tests.slurm_cluster import Layout, SlurmCluster, wait_until

from scaledl.distributed.hello import candidate_ports

pytestmark = pytest.mark.integration

EVERY = os.environ.get("SCALEDL_EXHAUSTIVE") == "1"
CONFIG = "configs/tiny.yaml"
MISMATCHES = {"shape": "collective mismatch", "operation": "did not answer within 15 s"}
StartSlurm = Callable[[Layout], SlurmCluster]
MakeFaulty = Callable[[SlurmCluster], FaultyProject]


def test_the_literal_command_on_one_node(project: Project) -> None:
    job = project.submit(CONFIG)
    project.slurm.wait_for(job, "COMPLETED")
    manifest = project.manifest(job)
    assert (manifest["status"], manifest["world_size"], manifest["attempts"]) == ("complete", 1, 1)
    log = project.slurm.log(job)
    assert f"run runs/tiny/{job}" in log
    assert "Traceback" not in log
    assert "Warning" not in log
    assert not project.status_folder(job).exists()


def test_fewer_nodes_after_a_requeue(start_slurm: StartSlurm, make_faulty: MakeFaulty) -> None:
    """Fault 19: the same batches on one node; each sample once, the losses those of a run on one node."""
    project = make_faulty(start_slurm(Layout()))
    job = project.train("data.batch_size=64", options=["--nodes=1-2"], FAULT_SLOW="*:0.3")
    project.wait_for_step(job, 1)
    project.slurm.scontrol("update", "NodeName=n2", "State=DRAIN", "Reason=test")
    project.slurm.signal(job, "USR1", batch=True)
    project.slurm.release(job)
    whole = project.submit(CONFIG, "data.batch_size=64", options=["--nodes=1"])
    project.slurm.wait_for(job, "COMPLETED")
    project.slurm.wait_for(whole, "COMPLETED")
    manifest = project.manifest(job)
    assert (manifest["status"], manifest["world_size"], manifest["attempts"]) == ("complete", 1, 2)
    assert "resumed from epoch 1 step" in project.slurm.log(job)
    project.assert_each_sample_once()
    assert project.losses(job) == pytest.approx(project.losses(whole), abs=1e-5)


# Ports


def test_a_port_that_is_taken_is_passed_over_by_all_ranks(project: Project) -> None:
    """Fault 21: something else listens on the first of those that follow from the job."""
    job = project.submit(CONFIG, options=["--nodes=2", "--hold"])
    with socket.create_server(("127.0.0.1", candidate_ports(f"slurm-{job}.0-r0")[0])) as listener:
        project.slurm.scontrol("release", job)
        project.slurm.wait_for(job, "COMPLETED")
        listener.setblocking(False)
        listener.accept()[0].close()  # a rank came to it
    assert project.manifest(job)["world_size"] == 2


def test_a_fixed_port_that_is_taken_is_named_with_its_owner(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        job = project.submit(CONFIG, options=["--nodes=2"], MASTER_PORT=str(port))
        project.slurm.wait_for(job, "FAILED")
    assert project.slurm.exit_code(job) == 2
    log = project.slurm.log(job)
    assert f"MASTER_PORT: {port} is in use on " in log
    assert f"by process {os.getpid()} (" in log
    assert "Traceback" not in log


# Collectives


@pytest.mark.parametrize("wrong", MISMATCHES if EVERY else ["shape"])
def test_ranks_in_different_collectives_end_within_the_timeout(wrong: str, faulty: FaultyProject) -> None:
    """Fault 27: rank 1 sends another shape than rank 0, or calls another operation."""
    seconds = 15
    job = faulty.train(f"trainer.timeout_seconds={seconds}", FAULT_WRONG=wrong)
    [event] = faulty.wait_for_events(job, "reached")
    faulty.slurm.wait_for_requeue(job)
    assert time.time() - event.time < seconds + 10
    assert MISMATCHES[wrong] in faulty.slurm.log(job)
    found = [faulty.status(job, rank) for rank in (0, 1)]
    assert all(status and status.status not in ("running", "complete", "preempted") for status in found), found
    assert faulty.slurm.processes(SLURM_JOB_ID=job) == []


# Orphans


@pytest.mark.exhaustive
@pytest.mark.parametrize(("nodes", "rank"), [(1, 0), (2, 0), (2, 1)])
def test_the_orphan_of_a_dead_node_stops_and_writes_no_more(
    nodes: int, rank: int, start_slurm: StartSlurm, make_faulty: MakeFaulty
) -> None:
    """Fault 15: slurmd of this rank's node is killed; the rank lives on there, and the job starts elsewhere."""
    project = make_faulty(start_slurm(Layout(nodes=("n1", "n2", "n3"))))
    slurm = project.slurm
    job = project.train("trainer.epochs=200000", "trainer.checkpoint_every_n_steps=20", options=[f"--nodes={nodes}"])
    writer, orphan = project.wait_for_step(job, 40), project.wait_for_step(job, 40, rank=rank)
    slurm.kill_slurmd(orphan.host)
    slurm.wait_for_requeue(job, timeout=90)
    slurm.scontrol("update", f"JobId={job}", "StartTime=now+2")
    assert project.wait_for_step(job, 41, attempt=2, timeout=90).start_step >= 20
    wait_until(lambda: not Path(f"/proc/{orphan.pid}").exists(), 30, lambda: slurm.log(job))
    first, second = project.events("attempts")
    assert (first.pid, first.what, second.what) == (writer.pid, 1, 2)
    saved = project.events("saved")
    # A save that had passed its last look at the token may still come to its end.
    assert {event.pid for event in saved if event.time > second.time + 2} == {second.pid}
    if nodes == 1:  # no srun lives that could end it
        fenced = project.events("fenced")
        assert {event.pid for event in fenced} == {orphan.pid}
        assert f"attempt 1 of run tiny/{job} stops: attempt 2 has taken over" in fenced[0].what


# Chains


def test_then_compress_ends_with_a_verified_file(project: Project) -> None:
    slurm = project.slurm
    job = project.submit(CONFIG, "--then", "compress")
    slurm.wait_for(job, "COMPLETED")
    after = str(int(job) + 1)
    slurm.wait_for(after, "COMPLETED")
    [run] = (project.folder / "runs" / "tiny").glob(f"{job}-prune-*")
    manifest = json.loads((run / "manifest.json").read_text())
    assert (manifest["kind"], manifest["status"]) == ("compress", "complete")
    assert manifest["parents"][0]["path"].endswith(f"tiny/{job}")
    assert (run / "exports" / "model.ts").is_file()
    assert "(verified)" in slurm.log(after)
    for each in (job, after):
        assert "Traceback" not in slurm.log(each)
        assert not project.status_folder(each).exists()


def test_compress_goes_on_with_the_run_that_it_took_first(faulty: FaultyProject, call: Any) -> None:
    """Without RUN: not with one that was trained before the requeue."""
    assert call(faulty.folder, "train", CONFIG, "--id", "first").code == 0
    job = faulty.submit(script="slurm/compress.sh", **faulty.faults(FAULT_POINT="data"))
    faulty.wait_for_events(job, "reached")
    faulty.slurm.signal(job, "USR1", batch=True)
    faulty.slurm.wait_for_requeue(job)
    assert call(faulty.folder, "train", CONFIG, "--id", "second").code == 0
    faulty.slurm.release(job)
    wait_until(lambda: faulty.slurm.log(job).count("compressing ") == 2, 30, lambda: faulty.slurm.log(job))
    assert re.findall(r"compressing runs/tiny/(\w+) -> ", faulty.slurm.log(job)) == ["first", "first"]
    assert faulty.slurm.log(job).count("no run given") == 1
