"""`scaledl launch slurm` against a real Slurm: what is submitted, followed, refused."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.slurm.conftest import Project
from tests.slurm_cluster import Layout, SlurmCluster, wait_until

pytestmark = pytest.mark.integration

SCALEDL = str(Path(sys.executable).with_name("scaledl"))
CONFIG = "configs/tiny.yaml"
FAST = ["--cpus", "1", "--time", "5", "--no-plan"]


def start(project: Project, *words: str, **env: str) -> subprocess.Popen[str]:
    own = {"SCALEDL_VENV": str(project.folder / ".venv")} if (project.folder / ".venv").exists() else {}
    return subprocess.Popen(
        [SCALEDL, "launch", "slurm", CONFIG, *words],
        cwd=project.folder,
        env=project.slurm.environment({**own, **env}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def launch(project: Project, *words: str, **env: str) -> tuple[int, str, str]:
    process = start(project, *words, **env)
    try:
        out, err = process.communicate(timeout=180)
    finally:
        process.kill()
    return process.returncode, out, err


def job_of(project: Project) -> str:
    """The only job, once it is there."""
    found: list[str] = []

    def there() -> bool:
        found[:] = project.slurm.command("squeue", "--noheader", "--format=%i").stdout.split()
        return bool(found)

    wait_until(there, 60)
    return found[0]


def test_a_training_and_its_compression_without_the_repository_at_hand(project: Project) -> None:
    shutil.rmtree(project.folder / "slurm")
    code, out, err = launch(project, "--nodes", "2", "--then", "compress", *FAST)
    assert code == 0, out + err
    assert "test accuracy" in out
    assert "(verified)" in out
    first, second = out.partition("submitted: job ")[2].splitlines()[0].split(", then job ")
    assert project.manifest(first)["world_size"] == 2
    [compressed] = (project.folder / "runs/tiny").glob(f"{first}-prune-*")
    assert json.loads((compressed / "manifest.json").read_text())["status"] == "complete"
    assert f"[job {second}: COMPLETED]" in out


def test_the_plan_stands_in_the_script_and_warns_of_too_little(project: Project) -> None:
    words = ["--nodes", "2", "--time", "1", "--mem", "10M", "trainer.epochs=100000", "--dry-run"]
    code, out, err = launch(project, *words)
    assert code == 0, err
    assert "# Estimated by `scaledl plan` for 2 nodes x 1, ddp: " in out
    assert "--mem 10M is less than" in err
    assert "--time 1 is less than" in err
    assert not project.slurm.command("squeue", "--noheader").stdout


def test_following_goes_on_through_a_requeue(stand_in: Project) -> None:
    process = start(stand_in, *FAST, PLAN="wait,complete:0")
    job = job_of(stand_in)
    stand_in.wait_for_ranks(job)
    stand_in.slurm.signal(job, "USR1", batch=True)
    stand_in.slurm.release(job)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert out.count("ready 0") == 2
    assert f"[job {job}: COMPLETED, restarted 1 time]" in out


@pytest.mark.parametrize(("plan", "expected"), [("refused:2", 2), ("interrupted:130", 130)])
def test_the_exit_code_is_that_of_the_job(plan: str, expected: int, stand_in: Project) -> None:
    code, out, err = launch(stand_in, *FAST, PLAN=plan)
    assert code == expected, out + err
    assert "not started again" in out


def test_ctrl_c_stops_following_and_not_the_job(stand_in: Project) -> None:
    process = start(stand_in, *FAST, PLAN="wait")
    job = job_of(stand_in)
    stand_in.wait_for_ranks(job)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"no longer following job {job}, which goes on" in err
    assert f"scancel {job}" in err
    assert stand_in.slurm.state(job) == "RUNNING"


def test_a_cancelled_job_ends_it(stand_in: Project) -> None:
    process = start(stand_in, *FAST, PLAN="wait")
    job = job_of(stand_in)
    stand_in.wait_for_ranks(job)
    stand_in.slurm.scancel(job)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err


def test_elements_of_an_array_are_followed_together(stand_in: Project) -> None:
    code, out, err = launch(stand_in, *FAST, "--array", "1-2", PLAN="complete:0")
    assert code == 0, out + err
    job = out.partition("submitted: job ")[2].split()[0]
    assert all(f"{job}_{index}: ready 0" in out for index in (1, 2))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--partition", "none"], "allowed here: low, high"),
        (["--nodes", "0"], "--nodes: got '0'"),
        (["--time", "soon"], "--time: got 'soon'"),
        (["optimizer.lr=0"], "optimizer.lr"),
        (["trainer.num_nodes=2"], "trainer.num_nodes: the config says 2, --nodes 1"),
        (["--gpus", "1", "--tasks", "2"], "--tasks: cannot stand with --gpus"),
        (["--array", "1-2", "--then", "compress"], "--then compress: cannot stand with --array"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_submitted(
    words: list[str], message: str, stand_in: Project
) -> None:
    code, _, err = launch(stand_in, "--no-plan", *words)
    assert code == 2
    assert message in err
    assert not stand_in.slurm.command("squeue", "--noheader").stdout


def test_what_will_wait_for_ever_is_warned_of(stand_in: Project) -> None:
    code, _, err = launch(stand_in, "--no-plan", "--dry-run", "--nodes", "3", "--time", "2-0", "--partition", "low")
    assert code == 0
    assert "partition low has 2 nodes, asked for are 3" in err


def test_what_sbatch_refuses_is_told(stand_in: Project) -> None:
    code, _, err = launch(stand_in, *FAST, "--array", "0-50000")
    assert code == 1
    assert "sbatch refused the job" in err


def test_without_slurm_only_a_dry_run(stand_in: Project, tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    words = [SCALEDL, "launch", "slurm", CONFIG, "--no-plan"]
    done = subprocess.run(words, cwd=stand_in.folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "sbatch was not found" in done.stderr
    done = subprocess.run([*words, "--dry-run"], cwd=stand_in.folder, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("#!/usr/bin/env bash\n")


def test_gpus_are_asked_for_by_node(
    start_slurm: Callable[[Layout], SlurmCluster], make_stand_in: Callable[[SlurmCluster], Project]
) -> None:
    project = make_stand_in(start_slurm(Layout(cpus=4, gpus=2)))
    code, out, err = launch(project, "--gpus", "2", "--time", "5", "--cpus", "2", "--no-plan", PLAN="complete:0")
    assert code == 0, out + err
    job = out.partition("submitted: job ")[2].split()[0]
    assert [call.env["SLURM_LOCALID"] for call in project.calls(job)] == ["0", "1"]
