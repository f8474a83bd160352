"""Ray over the nodes of a real Slurm job, and slurm/tune.sh: both come up, go on after faults, and leave nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.integration.slurm.conftest import Project
from tests.slurm_cluster import Layout, SlurmCluster, wait_until

pytestmark = pytest.mark.integration

PROGRAM = Path(__file__).parents[2] / "ray_driver.py"
SCRIPT = """\
#!/bin/bash
{before}
{python} {program} slurm {folder}
echo "batch ended with $?"
"""


@dataclass(frozen=True)
class RayJob:
    """A job whose batch script is a driver."""

    slurm: SlurmCluster
    id: str
    folder: Path

    def wait_until_up(self) -> dict[str, Any]:
        file = self.folder / "up.json"
        wait_until(lambda: file.exists() or "batch ended with" in self.log(), 90, self.log)
        assert file.exists(), self.log()
        return dict(json.loads(file.read_text()))

    def log(self) -> str:
        return self.slurm.log(self.id)

    def end(self) -> str:
        (self.folder / "go").touch()
        return self.slurm.wait_for_log(self.id, "batch ended with")

    def leftovers(self) -> list[object]:
        return [*self.slurm.processes(TMPDIR=str(self.folder / "t")), *(self.folder / "t").iterdir()]

    def assert_nothing_is_left(self, seconds: float = 15) -> None:
        wait_until(lambda: not self.leftovers(), seconds, lambda: f"{self.leftovers()}; {self.log()}")


@pytest.fixture
def submit(slurm: SlurmCluster) -> Iterator[Callable[..., RayJob]]:
    """`submit("--nodes=2")`: a job with a Ray over its nodes."""
    if find_spec("ray") is None:
        if os.environ.get("SCALEDL_REQUIRE_ALL") == "1":
            pytest.fail("SCALEDL_REQUIRE_ALL=1, but ray is not installed")
        pytest.skip("ray is not installed: pip install 'scaledl[tune]'")
    folders: list[Path] = []

    def submit(*options: str, on: SlurmCluster = slurm, before: str = "", **variables: str) -> RayJob:
        folder = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))  # Ray's sockets need short paths
        folders.append(folder)
        (folder / "t").mkdir()
        script = folder / "batch.sh"
        script.write_text(SCRIPT.format(before=before, python=sys.executable, program=PROGRAM, folder=folder))
        env = {"TMPDIR": str(folder / "t"), **variables}
        return RayJob(on, on.sbatch(script, cwd=folder, options=["--time=5", *options], env=env), folder)

    yield submit
    slurm.cancel_all()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


Submit = Callable[..., RayJob]
TWO: Sequence[str] = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=2")


def test_two_nodes_come_up_and_nothing_of_slurm_reaches_a_trial(submit: Submit) -> None:
    job = submit(*TWO)
    up = job.wait_until_up()
    assert [(node["name"], node["cpus"]) for node in up["nodes"]] == [("n1", 2), ("n2", 2)]
    for node in up["nodes"]:
        assert node["seen"]["environ"] == []
        assert node["seen"]["cwd"] == str(job.folder)
    assert job.end().endswith("batch ended with 0\n")
    job.assert_nothing_is_left(3)
    assert "srun" not in job.log()


def test_one_node_needs_no_srun(submit: Submit) -> None:
    stub = 'mkdir bin; printf "#!/bin/sh\\nexit 9" >bin/srun; chmod +x bin/srun; export PATH=$PWD/bin:$PATH'
    job = submit("--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=1", before=stub)
    up = job.wait_until_up()
    assert [(node["name"], node["cpus"]) for node in up["nodes"]] == [("n1", 1)], "one of two was asked for"
    assert job.end().endswith("batch ended with 0\n")
    job.assert_nothing_is_left(3)


def test_several_nodes_without_srun_say_so(submit: Submit) -> None:
    job = submit(*TWO, before="export PATH=/usr/nowhere")
    log = job.slurm.wait_for_log(job.id, "batch ended with")
    assert "error: srun was not found on PATH" in log
    assert log.endswith("batch ended with 2\n")


def test_a_job_may_be_given_fewer_cpus_than_there_are_and_all_of_them_work(
    start_slurm: Callable[[Layout], SlurmCluster], submit: Submit
) -> None:
    """srun would bind its one task to one CPU; GPUs are those of the job."""
    cpus = len(os.sched_getaffinity(0))
    slurm = start_slurm(Layout(cpus=cpus, gpus=2, task_plugin="task/affinity"))
    job = submit("--nodes=2", "--ntasks-per-node=1", f"--cpus-per-task={cpus}", "--gpus-per-node=2", on=slurm)
    up = job.wait_until_up()
    assert (up["cpus"], up["gpus"]) == (2 * cpus, 4)
    assert [len(node["seen"]["cpus"]) for node in up["nodes"]] == [cpus, cpus]
    assert job.end().endswith("batch ended with 0\n")


MORE = [pytest.param(victim, marks=pytest.mark.exhaustive) for victim in ("n1 raylet", "n1 wrapper", "n2 wrapper")]


@pytest.mark.parametrize("victim", ["driver", "n2 raylet", *MORE])
def test_after_kill_9_nothing_is_left(victim: str, submit: Submit) -> None:
    job = submit(*TWO)
    up = job.wait_until_up()
    head, other = up["nodes"]
    node = head if victim.startswith("n1") else other
    os.kill(up["pid"] if victim == "driver" else node[victim.partition(" ")[2]], signal.SIGKILL)
    log = job.slurm.wait_for_log(job.id, "batch ended with")
    if victim == "driver":
        assert log.endswith("batch ended with 137\n")
    else:
        assert f"error: Ray on {node['name']}: " in log
        assert log.endswith("batch ended with 1\n")
    wait_until(lambda: not job.slurm.processes(TMPDIR=str(job.folder / "t")), 15, job.log)
    left = list((job.folder / "t").iterdir())
    # Slurm ends what is below a wrapper that was killed; its folder is the next one's to remove.
    assert len(left) <= (victim == "n2 wrapper")


def test_scancel_leaves_nothing(submit: Submit) -> None:
    job = submit(*TWO)
    job.wait_until_up()
    job.slurm.scancel(job.id)
    job.assert_nothing_is_left()


BREAK = """\
mkdir -p hooks
cat >hooks/sitecustomize.py <<'END'
import os, sys
name = " ".join(sys.orig_argv)
if "ray._node" in name and os.environ.get("SLURMD_NODENAME") == "n2":
    os.environ["BROKEN"] = "1"
if "BROKEN" in os.environ and "{part}" in name:
    print("broken on n2", file=sys.stderr, flush=True)
    os._exit(3)
END
export PYTHONPATH=$PWD/hooks
"""


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("ray.scripts", "error: Ray on n2: `ray start` ended with exit code 3; last lines: broken on n2\n"),
        pytest.param(
            *(
                "ray._node",
                "error: Ray on n2: the process that watches it ended: Exited with exit code 3; last lines: ",
            ),
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_a_node_that_cannot_start_it_is_named(part: str, message: str, submit: Submit) -> None:
    job = submit(*TWO, before=BREAK.format(part=part))
    log = job.slurm.wait_for_log(job.id, "batch ended with")
    assert message in log
    assert "broken on n2" in log
    assert log.endswith("batch ended with 1\n")
    job.assert_nothing_is_left(5)


# slurm/tune.sh

SEARCH = """\
data: {source: digits, batch_size: 256}
model: {family: mlp, hidden: [16]}
trainer: {epochs: 2, num_threads: 1, precision: fp32}
tune: {scheduler: none, space: {optimizer.lr: {loguniform: [1e-3, 1e-1]}}}
"""


@pytest.fixture
def search(project: Project) -> Iterator[Search]:
    with tempfile.TemporaryDirectory(prefix="rt-", dir="/tmp", ignore_cleanup_errors=True) as base:
        (project.folder / "configs/search.yaml").write_text(SEARCH)
        yield Search(project, Path(base))
        project.slurm.cancel_all()


@dataclass(frozen=True)
class Search:
    """`sbatch slurm/tune.sh` in a project, with a folder where Ray's folders have to be gone in the end."""

    project: Project
    temporary: Path

    def submit(self, *overrides: str, nodes: int = 2, trials: int = 4, **variables: str) -> str:
        return self.project.submit(
            *("configs/search.yaml", "--trials", str(trials), *overrides),
            script="slurm/tune.sh",
            options=[f"--nodes={nodes}", "--cpus-per-task=2"],
            TMPDIR=str(self.temporary),
            **variables,
        )

    def trials(self, job: str) -> list[str]:
        """How each trial ended, as their manifests say."""
        paths = sorted((self.project.folder / "runs/search" / job / "trials").glob("*/manifest.json"))
        return [json.loads(path.read_text())["status"] for path in paths]

    def wait_for_trials(self, job: str, count: int) -> None:
        slurm = self.project.slurm
        wait_until(lambda: self.trials(job).count("complete") >= count, 120, lambda: slurm.log(job))

    def driver(self, job: str) -> int:
        """The process that leads the search."""
        for pid in self.project.slurm.processes(SLURM_JOB_ID=job):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"tune" in words and b"--trials" in words and not words[0].endswith(b"bash"):
                return pid
        raise AssertionError("no driver")

    def assert_nothing_is_left(self) -> None:
        slurm = self.project.slurm
        wait_until(lambda: not list(self.temporary.glob("sdl-*")), 15, lambda: str(list(self.temporary.iterdir())))
        wait_until(lambda: not slurm.processes(TMPDIR=str(self.temporary)), 15, str)


def test_a_search_over_two_nodes_has_the_id_of_its_job(search: Search) -> None:
    job = search.submit()
    search.project.slurm.wait_for(job, "COMPLETED", timeout=180)
    assert search.trials(job) == ["complete"] * 4
    assert "on 2 nodes" in search.project.slurm.log(job)
    assert not search.project.status_folder(job).exists()
    search.assert_nothing_is_left()


@pytest.mark.parametrize("fault", ["USR1", pytest.param("kill -9 of the driver", marks=pytest.mark.exhaustive)])
def test_what_was_stopped_goes_on_in_the_requeued_job(fault: str, search: Search) -> None:
    slurm = search.project.slurm
    job = search.submit("trainer.epochs=6", trials=8)
    search.wait_for_trials(job, 2)
    if fault == "USR1":
        slurm.signal(job, "USR1", batch=True)
    else:
        os.kill(search.driver(job), signal.SIGKILL)
    log = slurm.wait_for_log(job, "requeued: restart 1 of job ")
    search.assert_nothing_is_left()
    assert ("preempted: " if fault == "USR1" else "killed: ") in log
    slurm.release(job)
    slurm.wait_for(job, "COMPLETED", timeout=240)
    assert search.trials(job).count("complete") == 8
    search.assert_nothing_is_left()


def test_a_search_that_gets_nowhere_is_not_started_for_ever(stand_in: Project) -> None:
    program = stand_in.folder / ".venv/bin/scaledl"
    program.write_text('#!/bin/sh\nkill -9 "$$"\n')
    job = stand_in.submit("c.yaml", script="slurm/tune.sh", SCALEDL_MAX_STALLED_RESTARTS="0")
    stand_in.slurm.wait_for(job, "FAILED")
    assert stand_in.slurm.exit_code(job) == 137
    assert "killed: scaledl ended with 137" in stand_in.slurm.log(job)
    assert "not started again: 0 restarts in a row got no further" in stand_in.slurm.log(job)


STOPPABLE = """\
#!/bin/sh
[ "${SLURM_RESTART_COUNT:-0}" = 0 ] || { echo "went on"; exit 0; }
leave() {
    printf 'launch=slurm-%s.batch-r0\\nstatus=preempted\\nstep=3\\nrank=0\\nexit=75\\n' "$SLURM_JOB_ID" \\
        >"$SCALEDL_STATUS_DIR/rank-00000.status"
    exit 75
}
trap leave USR1
echo "search is up"
while :; do sleep 0.1; done
"""


@pytest.mark.parametrize("signum", ["USR1", pytest.param("TERM", marks=pytest.mark.exhaustive)])
def test_a_stop_signal_reaches_the_search_as_usr1_and_the_job_is_requeued(signum: str, stand_in: Project) -> None:
    slurm = stand_in.slurm
    (stand_in.folder / ".venv/bin/scaledl").write_text(STOPPABLE)
    options = ["--nodes=2", "--cpus-per-task=1"]
    job = stand_in.submit("c.yaml", script="slurm/tune.sh", options=options, SCALEDL_MAX_STALLED_RESTARTS="0")
    slurm.wait_for_log(job, "search is up")
    slurm.signal(job, signum, batch=True)
    log = slurm.wait_for_log(job, "requeued: restart 1 of job ")
    assert "trials save and leave" in log
    assert "preempted: rank 0 on ?, step 3" in log, "finished trials are progress"
    slurm.release(job)
    slurm.wait_for(job, "COMPLETED")
    assert slurm.log(job).endswith("went on\n")


def test_a_search_is_started_once_on_the_first_node_with_the_arguments_as_they_are(stand_in: Project) -> None:
    words = ["configs/a b.yaml", "--trials", "3", "run.name=x y", ";$(touch x)"]
    program = stand_in.folder / ".venv/bin/scaledl"
    program.write_text('#!/bin/sh\necho "on $SLURMD_NODENAME"; for word; do echo "<$word>"; done\n')
    job = stand_in.submit(*words, script="slurm/tune.sh", options=["--nodes=2"])
    stand_in.slurm.wait_for(job, "COMPLETED")
    assert stand_in.slurm.log(job).splitlines() == ["on n1", "<tune>", *(f"<{word}>" for word in words)]


def test_a_wrong_search_is_refused_and_not_requeued(search: Search) -> None:
    job = search.submit("optimizer.lr=fast", nodes=1)
    search.project.slurm.wait_for(job, "FAILED")
    assert search.project.slurm.exit_code(job) == 2
    assert "refused: scaledl ended with 2; not started again" in search.project.slurm.log(job)
