"""slurm/*.sh in a real Slurm: layout, signals, requeue, chains. The ranks are a stand-in that ends as it is told."""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.slurm.conftest import Project
from tests.slurm_cluster import Layout, SlurmCluster, wait_until

pytestmark = pytest.mark.integration

StartSlurm = Callable[[Layout], SlurmCluster]
MakeProject = Callable[[SlurmCluster], Project]


def finish(project: Project, job: str) -> str:
    """Start a requeued job at once, and wait for its end; returns its log."""
    project.slurm.release(job)
    project.slurm.wait_for(job, "COMPLETED")
    return project.slurm.log(job)


# Layout and arguments


def test_two_nodes_get_a_rank_each_and_the_arguments_as_they_are(stand_in: Project) -> None:
    words = ["configs/a b.yaml", "run.name=x y", "two\nlines", "-q", ";$(touch x)", "a=`touch x`", "*", ""]
    job = stand_in.submit(*words, options=["--nodes=2"])
    stand_in.slurm.wait_for(job, "COMPLETED")
    calls = stand_in.calls(job)
    assert [call.argv for call in calls] == [["train", *words]] * 2
    assert [call.env["SLURMD_NODENAME"] for call in calls] == ["n1", "n2"]
    assert {call.env["SLURM_STEP_NUM_TASKS"] for call in calls} == {"2"}
    assert not (stand_in.folder / "x").exists()
    assert not stand_in.status_folder(job).exists()


def test_jobs_that_export_nothing_still_export_to_their_ranks(stand_in: Project) -> None:
    job = stand_in.submit("c.yaml", options=["--export=SCALEDL_VENV"])
    stand_in.slurm.wait_for(job, "COMPLETED")
    [call] = stand_in.calls(job)
    assert call.env["SCALEDL_STATUS_DIR"] == str(stand_in.status_folder(job))
    assert call.env["TORCH_NCCL_DUMP_ON_TIMEOUT"] == "1"
    assert int(call.env["TORCH_FR_BUFFER_SIZE"]) > 0


def test_tasks_come_from_the_gpus_of_a_node_and_share_its_cpus(
    start_slurm: StartSlurm, make_stand_in: MakeProject
) -> None:
    project = make_stand_in(start_slurm(Layout(gpus=2, cpus=4)))
    job = project.submit("c.yaml", options=["--nodes=2", "--gpus-per-node=2", "--cpus-per-task=4"])
    project.slurm.wait_for(job, "COMPLETED")
    calls = project.calls(job)
    assert [call.env["SLURM_LOCALID"] for call in calls] == ["0", "1", "0", "1"]
    assert {call.env["CUDA_VISIBLE_DEVICES"] for call in calls} == {"0,1"}, "each rank has to see its peers' GPUs"
    assert {call.env["SLURM_CPUS_PER_TASK"] for call in calls} == {"2"}

    hidden = project.submit("c.yaml", options=["--gpus-per-task=1"])
    project.slurm.wait_for(hidden, "FAILED")
    assert project.slurm.exit_code(hidden) == 2
    assert "--gpus-per-node" in project.slurm.log(hidden)


def test_a_rank_gets_the_cpus_that_were_asked_for(start_slurm: StartSlurm, make_stand_in: MakeProject) -> None:
    """Fault 25: from 22.05 on, srun takes one CPU unless it is told."""
    cpus = len(os.sched_getaffinity(0))
    if cpus < 2:
        pytest.skip("one CPU cannot be told from all")
    project = make_stand_in(start_slurm(Layout(cpus=cpus, task_plugin="task/affinity")))
    for asked in (1, 2):
        job = project.submit("c.yaml", options=[f"--cpus-per-task={asked}"])
        project.slurm.wait_for(job, "COMPLETED")
        [call] = project.calls(job)
        assert (len(call.affinity), call.env["SRUN_CPUS_PER_TASK"]) == (asked, str(asked))


def test_a_container_prefix_replaces_the_environment(stand_in: Project) -> None:
    prefix = stand_in.folder / "container"
    prefix.write_text(
        f'#!/bin/sh\necho "container: $1 $2"\nshift 2\nPATH="{stand_in.folder}/.venv/bin:$PATH" exec "$@"\n'
    )
    prefix.chmod(prefix.stat().st_mode | stat.S_IXUSR)
    link = Path(f"/tmp/scaledl-test-{os.getpid()}")  # the prefix is split at spaces
    link.symlink_to(prefix)
    try:
        job = stand_in.submit("c.yaml", SCALEDL_CONTAINER=f"{link} exec image.sif", SCALEDL_VENV="/no/such")
        stand_in.slurm.wait_for(job, "COMPLETED")
    finally:
        link.unlink()
    assert "container: exec image.sif" in stand_in.slurm.log(job)
    assert len(stand_in.calls(job)) == 1


def test_compress_takes_its_arguments(stand_in: Project) -> None:
    job = stand_in.submit("123", "--method", "distill,prune", "a=b c", script="slurm/compress.sh")
    stand_in.slurm.wait_for(job, "COMPLETED")
    [call] = stand_in.calls(job)
    assert call.argv == ["compress", "123", "--method", "distill,prune", "a=b c"]


def test_a_submission_from_elsewhere_is_refused(stand_in: Project, tmp_path: Path) -> None:
    script = stand_in.folder / "slurm/train.sh"
    job = stand_in.slurm.sbatch(script, "c.yaml", cwd=tmp_path, options=["--output=log", "--cpus-per-task=1"])
    stand_in.slurm.wait_for(job, "FAILED")
    assert stand_in.slurm.exit_code(job) == 2
    assert "submit from the project's folder" in stand_in.slurm.log(job)


# Signals


@pytest.mark.parametrize("whom", ["batch", "step", pytest.param("both", marks=pytest.mark.exhaustive)])
def test_a_signal_saves_requeues_and_goes_on_in_one_log(whom: str, stand_in: Project) -> None:
    """Faults 7 and 14: to the batch script, which hands it on, or to the ranks."""
    slurm, job = stand_in.slurm, stand_in.submit("c.yaml", options=["--nodes=2"], PLAN="wait,complete:0")
    stand_in.wait_for_ranks(job, 2)
    for batch in {"batch": [True], "step": [False], "both": [True, False]}[whom]:
        slurm.signal(job, "USR1", batch=batch)
    slurm.wait_for_requeue(job)
    assert {stand_in.status(job, rank).status for rank in (0, 1)} <= {"preempted", "starting"}  # type: ignore[union-attr]
    log = finish(stand_in, job)
    assert slurm.restarts(job) == 1
    assert log.count("ready 0") == log.count("ready 1") == 2
    assert "preempted: rank" in log
    assert "requeued: restart 1" in log


def test_a_term_to_the_batch_script_is_handed_on_as_a_harmless_signal(stand_in: Project) -> None:
    slurm, job = stand_in.slurm, stand_in.submit("c.yaml", PLAN="wait,complete:0")
    stand_in.wait_for_ranks(job)
    slurm.signal(job, "TERM", batch=True)
    log = finish(stand_in, job)
    assert "SIGTERM came with" in log
    assert "preempted: rank 0 on n1, step 10" in log


def test_the_warning_before_the_time_is_up_saves_and_requeues(stand_in: Project) -> None:
    """Fault 6: it may come up to a minute early, and says how much time Slurm sees left."""
    slurm = stand_in.slurm
    job = stand_in.submit("c.yaml", options=["--time=1", "--signal=B:USR1@55"], PLAN="wait,complete:0")
    stand_in.wait_for_ranks(job)
    slurm.wait_for_requeue(job, timeout=90)
    assert "SIGUSR1 came with 0:" in finish(stand_in, job)
    assert slurm.restarts(job) == 1


def test_a_cancelled_job_stays_cancelled(stand_in: Project) -> None:
    slurm, job = stand_in.slurm, stand_in.submit("c.yaml", PLAN="wait,complete:0")
    stand_in.wait_for_ranks(job)
    slurm.scancel(job)
    slurm.wait_for(job, "CANCELLED")
    assert (slurm.restarts(job), "requeued: restart" in slurm.log(job)) == (0, False)


@pytest.mark.parametrize("preempt", ["user signal", pytest.param("term", marks=pytest.mark.exhaustive)])
def test_a_preempted_job_saves_within_its_grace_and_goes_on(
    preempt: str, start_slurm: StartSlurm, make_stand_in: MakeProject
) -> None:
    """Faults 8 and 9: the cluster sends the user signal to the batch script, or nothing but a TERM to the ranks."""
    project = make_stand_in(start_slurm(Layout(preempt=preempt)))  # type: ignore[arg-type]
    slurm = project.slurm
    options = ["--nodes=2", "--cpus-per-task=2"]
    job = project.submit("c.yaml", options=options, PLAN="wait,complete:0")
    project.wait_for_ranks(job, 2)
    wait_until(lambda: slurm.info(job)["RunTime"] >= "00:00:02", 10)  # too young a job is not preempted
    other = project.submit("c.yaml", options=[*options, "--partition=high"])
    slurm.wait_for(other, "COMPLETED", timeout=30)
    assert "preempted: rank" in finish(project, job)
    assert slurm.restarts(job) == 1


def test_only_the_signalled_element_of_an_array_is_requeued(stand_in: Project) -> None:
    """Fault 13. The last element has the array's own number as its job id."""
    slurm, job = stand_in.slurm, stand_in.submit("c.yaml", options=["--array=1-2"], PLAN="wait,complete:0")
    wait_until(lambda: len(list((stand_in.folder / "calls").glob("*-0-0.json"))) == 2, 30, lambda: slurm.log(job))
    slurm.signal(f"{job}_2", "USR1")
    slurm.wait_for_requeue(f"{job}_2")
    time.sleep(1)
    assert slurm.state(f"{job}_1") == "RUNNING"
    slurm.release(f"{job}_2")
    slurm.wait_for(f"{job}_2", "COMPLETED")
    assert [slurm.restarts(f"{job}_{index}") for index in (1, 2)] == [0, 1]
    assert stand_in.status_folder(f"{job}_1").is_dir()


# Requeue, or not


@pytest.mark.parametrize(
    ("plan", "code", "text"),
    [
        ("refused:2", 2, "refused: rank 0 on n1, step 0: as the plan says; not started again"),
        ("refused:3", 3, "refused"),
        ("exit:2", 2, "refused: srun ended with 2"),
        ("interrupted:130", 130, "interrupted"),
    ],
)
def test_what_would_end_the_same_way_again_is_not_requeued(plan: str, code: int, text: str, stand_in: Project) -> None:
    job = stand_in.submit("c.yaml", PLAN=plan)
    stand_in.slurm.wait_for(job, "FAILED")
    assert (stand_in.slurm.exit_code(job), stand_in.slurm.restarts(job)) == (code, 0)
    assert text in stand_in.slurm.log(job)


def test_the_exit_code_is_that_of_the_rank_that_refused(stand_in: Project) -> None:
    """srun's is that of a rank which it stopped, and the cause was written before its rank had a code."""
    job = stand_in.submit("c.yaml", options=["--nodes=2"], PLAN="refuse:2")
    stand_in.slurm.wait_for(job, "FAILED")
    assert "task 1: Exited with exit code 75" in stand_in.slurm.log(job)
    assert (stand_in.slurm.exit_code(job), stand_in.slurm.restarts(job)) == (2, 0)


MORE = [pytest.param(plan, marks=pytest.mark.exhaustive) for plan in ("hung:1", "exit:1", "exit:75")]


@pytest.mark.parametrize("plan", ["failed:1", "killed:137", "die", "exit:143", *MORE])
def test_what_may_go_well_next_time_is_requeued(plan: str, stand_in: Project) -> None:
    job = stand_in.submit("c.yaml", PLAN=f"{plan},complete:0")
    finish(stand_in, job)
    assert stand_in.slurm.restarts(job) == 1


def test_a_crash_loop_ends(stand_in: Project) -> None:
    """Fault 12: progress lets the count begin again."""
    slurm, job = (
        stand_in.slurm,
        stand_in.submit("c.yaml", PLAN="failed:1,wait,failed:1", SCALEDL_MAX_STALLED_RESTARTS="1"),
    )
    slurm.release(job)
    stand_in.wait_for_ranks(job, 1, restart=1)
    slurm.signal(job, "USR1")
    slurm.release(job, 2)
    slurm.release(job, 3)
    slurm.wait_for(job, "FAILED")
    assert (slurm.exit_code(job), slurm.restarts(job)) == (1, 3)
    assert "1 restarts in a row got no further than step 20" in slurm.log(job)


def test_another_stage_is_progress(stand_in: Project) -> None:
    """Each counts its steps from 0."""
    slurm = stand_in.slurm
    job = stand_in.submit("c.yaml", PLAN="failed:1:1,failed:1:2,failed:1:2", SCALEDL_MAX_STALLED_RESTARTS="0")
    slurm.release(job)
    slurm.release(job, 2)
    slurm.wait_for(job, "FAILED")
    assert slurm.restarts(job) == 2
    assert "0 restarts in a row got no further than stage 2, step 0" in slurm.log(job)


def test_no_requeue_is_named(stand_in: Project) -> None:
    """Fault 10."""
    slurm, job = stand_in.slurm, stand_in.submit("c.yaml", options=["--no-requeue"], PLAN="wait")
    stand_in.wait_for_ranks(job)
    slurm.signal(job, "USR1")
    slurm.wait_for(job, "FAILED")
    assert slurm.exit_code(job) == 75
    assert "--no-requeue" in slurm.log(job)
    assert f"run.id={job}" in slurm.log(job)


@pytest.mark.parametrize("fault", ["missing", pytest.param("hanging", marks=pytest.mark.exhaustive)])
def test_scontrol_missing_or_hanging_is_named(fault: str, stand_in: Project) -> None:
    """Fault 11: everything else is on PATH."""
    slurm, programs = stand_in.slurm, stand_in.folder / "programs"
    programs.mkdir()
    for program in (*Path("/usr/bin").iterdir(), *Path("/bin").iterdir()):
        if program.name != "scontrol" and not (programs / program.name).exists():
            (programs / program.name).symlink_to(program.resolve())
    if fault == "hanging":
        (programs / "scontrol").write_text("#!/bin/sh\nexec sleep 300\n")
        (programs / "scontrol").chmod(0o755)
    job = stand_in.submit("c.yaml", PLAN="wait", PATH=str(programs), SCALEDL_REQUEUE_SECONDS="2")
    stand_in.wait_for_ranks(job)
    slurm.signal(job, "USR1")
    slurm.wait_for(job, "FAILED", timeout=15)
    assert slurm.exit_code(job) == 75
    assert {"missing": "scontrol was not found", "hanging": "scontrol did not answer within 2 s"}[fault] in slurm.log(
        job
    )


@pytest.mark.exhaustive
def test_a_lost_slurmctld_is_waited_for(start_slurm: StartSlurm, make_stand_in: MakeProject) -> None:
    """Fault 18."""
    project = make_stand_in(start_slurm(Layout()))
    slurm, job = project.slurm, project.submit("c.yaml", PLAN="wait,complete:0", SCALEDL_REQUEUE_SECONDS="120")
    project.wait_for_ranks(job)
    log = Path(slurm.info(job)["StdOut"])
    slurm.stop_slurmctld()
    status = project.status(job)
    assert status is not None
    os.kill(status.pid, signal.SIGUSR1)
    wait_until(lambda: "requeue failed, trying again" in log.read_text(), 60, log.read_text)
    slurm.start_slurmctld()
    finish(project, job)
    assert slurm.restarts(job) == 1


# Chains


def test_then_compress_runs_after_all_attempts_of_the_training(stand_in: Project) -> None:
    slurm = stand_in.slurm
    job = stand_in.submit("--then", "compress", "c.yaml", "--method=prune,qat", "a=b c", PLAN="wait,complete:0")
    [call] = stand_in.wait_for_ranks(job)
    assert call.argv == ["train", "c.yaml", "a=b c"]
    log = slurm.wait_for_log(job, "slurm/compress.sh")
    after = str(int(job) + 1)
    assert f"job {after}: slurm/compress.sh {job}, after this one" in log
    slurm.signal(job, "USR1")
    slurm.wait_for_requeue(job)
    assert slurm.state(after) == "PENDING"
    finish(stand_in, job)
    slurm.wait_for(after, "COMPLETED", "FAILED")
    [call] = stand_in.calls(after)
    assert call.argv == ["compress", job, "--root", "runs", "--method", "prune,qat"]
    assert slurm.log(job).count("slurm/compress.sh") == 1


def test_then_compress_of_an_array_element_waits_for_that_element(stand_in: Project) -> None:
    slurm = stand_in.slurm
    job = stand_in.submit("c.yaml", "run.root=other", "--then=compress", options=["--array=5"], PLAN="complete:0")
    slurm.wait_for(job, "COMPLETED")
    after = str(int(job) + 1)
    slurm.wait_for(after, "COMPLETED")
    [call] = stand_in.calls(after)
    assert call.argv == ["compress", f"{job}_5", "--root", "other"]
    assert "SLURM_ARRAY_TASK_ID" not in call.env


def test_then_compress_goes_with_a_training_that_fails(stand_in: Project) -> None:
    slurm = stand_in.slurm
    job = stand_in.submit("c.yaml", "--then", "compress", PLAN="refused:2")
    slurm.wait_for(job, "FAILED")
    assert slurm.wait_for(str(int(job) + 1), "CANCELLED") == "CANCELLED"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["c.yaml", "--then", "serve"], "--then: got 'serve'; allowed: compress"),
        (["c.yaml", "--then"], "--then needs a value"),
        (["c.yaml", "--method", "qat"], "--method belongs to --then compress"),
        (["c.yaml", "--then", "compress", "stages=[]"], "no compress.stages"),
        (["bad", "--then", "compress"], ""),
    ],
)
def test_a_wrong_chain_starts_nothing(words: list[str], text: str, stand_in: Project) -> None:
    slurm, job = stand_in.slurm, stand_in.submit(*words)
    slurm.wait_for(job, "FAILED")
    assert slurm.exit_code(job) == 2
    assert text in slurm.log(job)
    assert not stand_in.calls(job)
