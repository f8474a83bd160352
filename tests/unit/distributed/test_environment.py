"""What the environment says about a rank's place, for every launcher; and what it must not say."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from scaledl.distributed.environment import ClusterSpec, detect_cluster
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "MASTER_ADDR": "n1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_RESTART_COUNT": "0",
}
DEEPSPEED = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_SIZE": "2",
    "CROSS_RANK": "1",
    "CROSS_SIZE": "2",
    "MASTER_ADDR": "n1",
    "MASTER_PORT": "29500",
}
RAY_TRAIN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "NODE_RANK": "1",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "40123",
    "RAY_RAYLET_PID": "17",
}
# as slurmd 22.05 sets them: a job of three tasks on two nodes
BATCH = {
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NAME": "bash",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NNODES": "2",
    "SLURM_NODELIST": "n[1-2]",
    "SLURM_NPROCS": "3",
    "SLURM_NTASKS": "3",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_TASKS_PER_NODE": "2(x2)",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}
STEP = {
    **BATCH,
    "SLURM_TASKS_PER_NODE": "2,1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
}
ONE_TASK = {**BATCH, "SLURM_NTASKS": "1", "SLURM_NNODES": "1", "SLURM_NTASKS_PER_NODE": "1"}
INTERACTIVE = {**ONE_TASK, "SLURM_STEP_ID": str(0xFFFFFFFA), "SLURM_STEP_NUM_TASKS": "1"}


def without(environ: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name not in names}


def place(spec: ClusterSpec) -> tuple[int, ...]:
    return spec.rank, spec.local_rank, spec.node_rank, spec.world_size, spec.local_world_size, spec.num_nodes


@pytest.mark.parametrize(
    ("environ", "launcher", "expected"),
    [
        pytest.param({}, "none", (0, 0, 0, 1, 1, 1), id="laptop"),
        pytest.param({"MASTER_ADDR": "x", "MASTER_PORT": "1"}, "none", (0, 0, 0, 1, 1, 1), id="a master alone"),
        pytest.param({"SLURM_CONF": "/x", "SLURM_NTASKS": "4"}, "none", (0, 0, 0, 1, 1, 1), id="options for srun"),
        pytest.param(TORCHRUN, "env", (3, 1, 1, 4, 2, 2), id="torchrun"),
        pytest.param(DEEPSPEED, "env", (3, 1, 1, 4, 2, 2), id="deepspeed"),
        pytest.param(RAY_TRAIN, "env", (3, 1, 1, 4, 2, 2), id="ray train"),
        pytest.param(without(RAY_TRAIN, "NODE_RANK"), "env", (3, 1, 1, 4, 2, 2), id="a launcher that counts no nodes"),
        pytest.param({**STEP, **TORCHRUN}, "env", (3, 1, 1, 4, 2, 2), id="torchrun in a step"),
        pytest.param({**STEP, "WORLD_SIZE": "9"}, "slurm", (2, 0, 1, 3, 1, 2), id="a step, and a stray WORLD_SIZE"),
        pytest.param({**STEP, "RAY_RAYLET_PID": "1"}, "none", (0, 0, 0, 1, 1, 1), id="a trial of Ray in a job"),
        pytest.param({**BATCH, **RAY_TRAIN}, "env", (3, 1, 1, 4, 2, 2), id="ray train in a job"),
        pytest.param(STEP, "slurm", (2, 0, 1, 3, 1, 2), id="a step, uneven"),
        pytest.param(
            {**STEP, "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0"}, "slurm", (1, 1, 0, 3, 2, 2)
        ),
        pytest.param(
            {**STEP, "SLURM_NTASKS": "8", "SLURM_NNODES": "4"}, "slurm", (2, 0, 1, 3, 1, 2), id="part of a job"
        ),
        pytest.param(ONE_TASK, "none", (0, 0, 0, 1, 1, 1), id="a batch script of one task"),
        pytest.param(INTERACTIVE, "none", (0, 0, 0, 1, 1, 1), id="the shell of salloc"),
        pytest.param({"SLURM_JOB_ID": "17"}, "none", (0, 0, 0, 1, 1, 1), id="a job that says nothing else"),
    ],
)
def test_the_place_of_a_rank(environ: dict[str, str], launcher: str, expected: tuple[int, ...]) -> None:
    spec = detect_cluster(environ)
    assert (spec.launcher, place(spec)) == (launcher, expected)


def test_job_nodes_and_master_of_a_step() -> None:
    spec = detect_cluster(STEP)
    assert (spec.job_id, spec.nodes, spec.master_addr, spec.master_port) == ("17", ("n1", "n2"), "n1", None)
    fixed = detect_cluster({**STEP, "MASTER_ADDR": "10.0.0.9", "MASTER_PORT": "5000"})
    assert (fixed.master_addr, fixed.master_port) == ("10.0.0.9", 5000)
    assert detect_cluster(ONE_TASK).job_id == "17"
    assert detect_cluster({**STEP, "RAY_RAYLET_PID": "1"}).job_id is None


@pytest.mark.parametrize(
    ("environ", "other"),
    [
        (STEP, {**STEP, "SLURM_PROCID": "0", "SLURM_NODEID": "0"}),
        (TORCHRUN, {**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}),
        (DEEPSPEED, {**DEEPSPEED, "RANK": "0", "LOCAL_RANK": "0", "CROSS_RANK": "0"}),
    ],
)
def test_ranks_of_one_launch_share_its_id(environ: dict[str, str], other: dict[str, str]) -> None:
    assert detect_cluster(environ).launch_id == detect_cluster(other).launch_id


@pytest.mark.parametrize(
    ("environ", "change"),
    [
        (STEP, {"SLURM_RESTART_COUNT": "1"}),
        (STEP, {"SLURM_STEP_ID": "1"}),
        (STEP, {"SLURM_JOB_ID": "18"}),
        (TORCHRUN, {"TORCHELASTIC_RESTART_COUNT": "1"}),
        (TORCHRUN, {"TORCHELASTIC_RUN_ID": "other"}),
        (DEEPSPEED, {"MASTER_PORT": "29501"}),
        (DEEPSPEED, {"SCALEDL_LAUNCH_ID": "mine"}),
    ],
)
def test_another_launch_has_another_id(environ: dict[str, str], change: dict[str, str]) -> None:
    assert detect_cluster(environ).launch_id != detect_cluster({**environ, **change}).launch_id


def test_torchrun_on_one_node_has_a_new_id_at_every_start() -> None:
    one = {**TORCHRUN, "WORLD_SIZE": "2", "RANK": "1", "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1"}
    ids = {
        detect_cluster(
            {**one, "TORCHELASTIC_ERROR_FILE": f"/tmp/torchelastic_{start}/none_x/attempt_0/{rank}/error.json"}
        ).launch_id
        for start in "ab"
        for rank in range(2)
    }
    assert len(ids) == 2
    assert len({detect_cluster({}).launch_id for _ in range(2)}) == 2


@pytest.mark.parametrize(
    ("environ", "restart"),
    [
        ({**STEP, "SLURM_RESTART_COUNT": "2"}, 2),
        ({**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "3"}, 3),
        ({**ONE_TASK, "SLURM_RESTART_COUNT": "1"}, 1),
        ({"SLURM_RESTART_COUNT": "1"}, 0),
    ],
)
def test_restarts_are_counted(environ: dict[str, str], restart: int) -> None:
    assert detect_cluster(environ).restart == restart


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        pytest.param({"RANK": "0"}, "RANK set, but not WORLD_SIZE, LOCAL_RANK, .*MASTER_PORT; start", id="only RANK"),
        pytest.param(without(TORCHRUN, "WORLD_SIZE"), "RANK, LOCAL_RANK set, but not WORLD_SIZE;", id="no WORLD_SIZE"),
        pytest.param(without(TORCHRUN, "MASTER_PORT"), "but not MASTER_PORT;", id="no MASTER_PORT"),
        pytest.param(without(DEEPSPEED, "LOCAL_SIZE"), "but not LOCAL_WORLD_SIZE;", id="no LOCAL_WORLD_SIZE"),
        pytest.param({**TORCHRUN, "RANK": ""}, "RANK: empty", id="empty RANK"),
        pytest.param({**TORCHRUN, "RANK": "4"}, "RANK='4', WORLD_SIZE='4': allowed: 0 to 3", id="RANK too large"),
        pytest.param({**TORCHRUN, "RANK": "-1"}, "RANK: got '-1'; allowed: a whole number from 0", id="negative RANK"),
        pytest.param({**TORCHRUN, "RANK": "1.0"}, "RANK: got '1.0'", id="RANK with a point"),
        pytest.param({**TORCHRUN, "RANK": "٣"}, "RANK: got '٣'", id="a digit of another script"),
        pytest.param({**TORCHRUN, "WORLD_SIZE": "0"}, "WORLD_SIZE: got '0'", id="no ranks"),
        pytest.param({**TORCHRUN, "WORLD_SIZE": "9" * 5000}, "WORLD_SIZE: got '9", id="a number of 5000 digits"),
        pytest.param({**TORCHRUN, "LOCAL_RANK": "2"}, "LOCAL_RANK='2', LOCAL_WORLD_SIZE='2': allowed: 0 to 1"),
        pytest.param({**DEEPSPEED, "LOCAL_RANK": "2"}, "LOCAL_RANK='2', LOCAL_SIZE='2': allowed: 0 to 1"),
        pytest.param({**TORCHRUN, "LOCAL_WORLD_SIZE": "5"}, "LOCAL_WORLD_SIZE='5', WORLD_SIZE='4'"),
        pytest.param({**TORCHRUN, "GROUP_RANK": "2"}, "GROUP_RANK='2', GROUP_WORLD_SIZE='2'"),
        pytest.param({**TORCHRUN, "MASTER_ADDR": " "}, "MASTER_ADDR: empty"),
        pytest.param({**TORCHRUN, "MASTER_PORT": "70000"}, "MASTER_PORT: got '70000'; allowed: .* 1 to 65535"),
        pytest.param({**TORCHRUN, "SCALEDL_LAUNCH_ID": "a b"}, "SCALEDL_LAUNCH_ID: got 'a b'"),
        pytest.param({**STEP, "SLURM_NTASKS": "", "SLURM_STEP_NUM_TASKS": ""}, "SLURM_STEP_NUM_TASKS: empty; .*srun"),
        pytest.param({**STEP, "SLURM_STEP_NUM_TASKS": "abc"}, "SLURM_STEP_NUM_TASKS: got 'abc'"),
        pytest.param({**STEP, "SLURM_PROCID": "3"}, "SLURM_PROCID='3', SLURM_STEP_NUM_TASKS='3': allowed: 0 to 2"),
        pytest.param({**STEP, "SLURM_LOCALID": "1"}, "SLURM_LOCALID='1', .*: this node, number 1, has 1 of the tasks"),
        pytest.param({**STEP, "SLURM_NODEID": "2"}, "SLURM_NODEID='2', SLURM_STEP_NUM_NODES='2'"),
        pytest.param(without(STEP, "SLURM_PROCID"), "SLURM_PROCID: not set"),
        pytest.param(without(STEP, "SLURM_LOCALID"), "SLURM_LOCALID: not set"),
        pytest.param({**STEP, "SLURM_STEP_ID": "x"}, "SLURM_STEP_ID: got 'x'"),
        pytest.param({**STEP, "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}, "it means 4 tasks on 2 nodes"),
        pytest.param({**STEP, "SLURM_STEP_TASKS_PER_NODE": "2(x"}, "SLURM_STEP_TASKS_PER_NODE: got '2\\(x'; allowed"),
        pytest.param({**STEP, "SLURM_STEP_NODELIST": "n[1-3]"}, "SLURM_STEP_NODELIST='n\\[1-3\\]', .*has 3 nodes"),
        pytest.param({**STEP, "SLURM_STEP_NODELIST": "n[2-1]"}, "SLURM_STEP_NODELIST: got the node list"),
        pytest.param({**STEP, "SLURM_RESTART_COUNT": ""}, "SLURM_RESTART_COUNT: empty"),
        pytest.param({**STEP, "MASTER_ADDR": ""}, "MASTER_ADDR: empty"),
        pytest.param({**STEP, "MASTER_PORT": "0"}, "MASTER_PORT: got '0'"),
        pytest.param({**STEP, "SLURM_JOB_ID": ""}, "SLURM_JOB_ID='': a task of Slurm belongs to a job"),
        pytest.param(without(STEP, "SLURM_JOB_ID"), "SLURM_PROCID='2', .*SLURM_JOB_ID not set"),
        pytest.param({"SLURM_JOB_ID": ""}, "SLURM_JOB_ID='': a task of Slurm belongs to a job"),
        pytest.param({"SLURM_PROCID": "0"}, "SLURM_PROCID='0', SLURM_JOB_ID not set"),
        pytest.param(BATCH, "SLURM_NTASKS='3'.* not started by srun.*`srun scaledl", id="a batch script of 3 tasks"),
        pytest.param(
            {"SLURM_JOB_ID": "1", "SLURM_NNODES": "2"}, "SLURM_NNODES='2'.* not started by srun", id="2 nodes"
        ),
        pytest.param(
            {**INTERACTIVE, "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"},
            "not started by srun",
            id="the shell of a job of 2 tasks",
        ),
        pytest.param({**ONE_TASK, "SLURM_NTASKS": ""}, "SLURM_NTASKS: empty"),
        pytest.param({**ONE_TASK, "SLURM_NTASKS": "many"}, "SLURM_NTASKS: got 'many'"),
        pytest.param({**BATCH, "SLURM_NTASKS": "5"}, "nodes x tasks per node make 4", id="more than fit"),
    ],
)
def test_what_contradicts_itself_is_refused_by_name(environ: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        detect_cluster(environ)
    assert re.search(said, str(caught.value))
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value)  # what is wrong; what to do


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"SLURM_NTASKS_PER_NODE": "2"}, "nodes x tasks per node make 4"),
        ({}, "nothing says how many tasks each node has; give srun --ntasks-per-node"),
    ],
)
def test_a_step_that_does_not_say_its_layout(change: dict[str, str], said: str) -> None:
    """Without what newer versions of Slurm say about the step."""
    step_names = [name for name in STEP if name.startswith("SLURM_STEP_") and name != "SLURM_STEP_ID"]
    old = without(STEP, *step_names, "SLURM_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE")
    with pytest.raises(UsageError, match=said):
        detect_cluster({**old, **change})
    even = {**old, "SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
    assert place(detect_cluster(even)) == (3, 1, 1, 4, 2, 2)


def test_finding_out_imports_no_torch() -> None:
    code = "import sys, scaledl.distributed.environment; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
