"""Where this process stands among the ranks of its launch: torchrun, DeepSpeed, Ray, srun, or alone. No torch."""

from __future__ import annotations

import hashlib
import re
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from scaledl.distributed.node_list import expand_counts, expand_node_list
from scaledl.errors import UsageError
from scaledl.run.process import RAY_WORKER

__all__ = ["ClusterSpec", "Launcher", "detect_cluster", "expand_node_list"]

Launcher = Literal["none", "env", "slurm"]

# What every launcher that starts the ranks itself sets: torchrun, deepspeed, Ray Train.
_RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_MARKS_OF_A_RANK = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_LOCAL_SIZES = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE")  # the second is DeepSpeed's
_NODE_RANKS = ("GROUP_RANK", "NODE_RANK", "CROSS_RANK")  # torchrun, Ray Train, DeepSpeed
_NODE_COUNTS = ("GROUP_WORLD_SIZE", "CROSS_SIZE")
_TASK_VARIABLES = ("SLURM_STEP_ID", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")
_PSEUDO_STEPS = 0xFFFFFFF0  # the batch step and the shell of an allocation have step ids above this
_MAX_RANKS = 1_000_000
_LAUNCH_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")
_FIX_RANK = "start the ranks with torchrun, deepspeed or srun, or unset these variables to run in one process"
_FIX_SLURM = "start it with `srun scaledl …` or `sbatch slurm/train.sh CONFIG`, which set them"


@dataclass(frozen=True)
class ClusterSpec:
    """One rank's place.

    `nodes`: host names where known, else (). `master_port`: None when nobody fixed one. `launch_id`: the same for all
    ranks of one launch, another for every requeue. `restart`: how often the scheduler or torchrun started it again.
    """

    launcher: Launcher
    rank: int
    local_rank: int
    node_rank: int
    world_size: int
    local_world_size: int
    num_nodes: int
    nodes: tuple[str, ...]
    master_addr: str
    master_port: int | None
    launch_id: str
    job_id: str | None
    restart: int

    @property
    def host(self) -> str:
        """This machine, as the scheduler calls it, else as it calls itself."""
        return self.nodes[self.node_rank] if self.node_rank < len(self.nodes) else socket.gethostname()


def detect_cluster(environ: Mapping[str, str]) -> ClusterSpec:
    """The place that the environment describes. Raises UsageError for what is empty, wrong or contradicts itself."""
    if RAY_WORKER in environ:  # Ray's node may run in a job of Slurm, but its workers are no tasks of it
        environ = {name: value for name, value in environ.items() if not name.startswith("SLURM_")}
    marks = [name for name in _MARKS_OF_A_RANK if name in environ]
    missing = [name for name in _RANK_VARIABLES if not _present(environ, name)]
    if marks and not missing:
        return _from_ranks(environ)
    if _in_step(environ):
        return _from_step(environ)
    if marks:
        raise UsageError(f"{', '.join(marks)} set, but not {', '.join(missing)}; {_FIX_RANK}")
    return _alone(environ)


def _present(environ: Mapping[str, str], name: str) -> bool:
    return any(known in environ for known in (_LOCAL_SIZES if name == "LOCAL_WORLD_SIZE" else (name,)))


def _from_ranks(environ: Mapping[str, str]) -> ClusterSpec:
    world_size = _number(environ, "WORLD_SIZE", _FIX_RANK, least=1)
    rank = _below(environ, "RANK", world_size, "WORLD_SIZE")
    local_name = _first(environ, *_LOCAL_SIZES)
    local_size = _number(environ, local_name, _FIX_RANK, least=1)
    local_rank = _below(environ, "LOCAL_RANK", local_size, local_name)
    if local_size > world_size:
        raise _contradiction(environ, (local_name, "WORLD_SIZE"), "a node cannot hold more ranks than all", _FIX_RANK)
    node_rank, num_nodes = _node_of_rank(environ, rank, local_size, world_size)
    restarts = [_optional_number(environ, name) for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")]
    return ClusterSpec(
        launcher="env",
        rank=rank,
        local_rank=local_rank,
        node_rank=node_rank,
        world_size=world_size,
        local_world_size=local_size,
        num_nodes=num_nodes,
        nodes=(),
        master_addr=_text(environ, "MASTER_ADDR", _FIX_RANK),
        master_port=_port(environ),
        launch_id=_launch_of_ranks(environ, num_nodes),
        job_id=environ.get("SLURM_JOB_ID") or None,
        restart=sum(restarts),
    )


def _node_of_rank(environ: Mapping[str, str], rank: int, local_size: int, world_size: int) -> tuple[int, int]:
    """Node of a rank and number of nodes, as the launcher says, else as if ranks filled equal nodes in order."""
    node_name, count_name = _first(environ, *_NODE_RANKS), _first(environ, *_NODE_COUNTS)
    even = -(-world_size // local_size)
    node = _number(environ, node_name, _FIX_RANK) if node_name in environ else rank // local_size
    count = _number(environ, count_name, _FIX_RANK, least=1) if count_name in environ else max(even, node + 1)
    if node >= count:
        raise _contradiction(environ, (node_name, count_name), "nodes are counted from 0", _FIX_RANK)
    return node, count


def _launch_of_ranks(environ: Mapping[str, str], num_nodes: int) -> str:
    """From what is the same on all nodes. On one node torchrun's folder of logs, new with every start, counts too."""
    given = environ.get("SCALEDL_LAUNCH_ID")
    if given is not None:
        if not _LAUNCH_ID.fullmatch(given):
            raise UsageError(f"SCALEDL_LAUNCH_ID: got {given!r}; allowed: letters, digits, '.', '_', ':', '-'")
        return given
    names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT", "MASTER_PORT", "WORLD_SIZE")
    parts = [environ.get(name, "") for name in names]
    error_file = PurePath(environ.get("TORCHELASTIC_ERROR_FILE", ""))
    if num_nodes == 1 and len(error_file.parts) > 3:
        parts.append(str(error_file.parents[2]))  # below it: attempt_N/LOCAL_RANK/error.json
    return "env-" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _in_step(environ: Mapping[str, str]) -> bool:
    """Whether srun started this process: a batch script and the shell of an allocation have most variables too."""
    tasks = [name for name in _TASK_VARIABLES if name in environ]
    if not environ.get("SLURM_JOB_ID"):
        if tasks or "SLURM_JOB_ID" in environ:
            names = (*tasks, "SLURM_JOB_ID")
            raise _contradiction(environ, names, "a task of Slurm belongs to a job", _FIX_SLURM)
        return False
    if "SLURM_STEP_ID" not in environ:
        return False
    return _number(environ, "SLURM_STEP_ID", _FIX_SLURM, most=0xFFFFFFFF) < _PSEUDO_STEPS


def _from_step(environ: Mapping[str, str]) -> ClusterSpec:
    tasks = _first(environ, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS")
    counts = _first(environ, "SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES")
    world_size = _number(environ, tasks, _FIX_SLURM, least=1)
    num_nodes = _number(environ, counts, _FIX_SLURM, least=1)
    rank = _below(environ, "SLURM_PROCID", world_size, tasks)
    node_rank = _below(environ, "SLURM_NODEID", num_nodes, counts)
    local_size = _tasks_of_node(environ, node_rank, num_nodes, world_size, tasks, counts)
    local_rank = _number(environ, "SLURM_LOCALID", _FIX_SLURM)
    if local_rank >= local_size:
        reason = f"this node, number {node_rank}, has {local_size} of the tasks"
        raise _contradiction(environ, ("SLURM_LOCALID", tasks, counts), reason, _FIX_SLURM)
    nodes = _step_nodes(environ, num_nodes, counts)
    job, restart = environ["SLURM_JOB_ID"], _optional_number(environ, "SLURM_RESTART_COUNT")
    return ClusterSpec(
        launcher="slurm",
        rank=rank,
        local_rank=local_rank,
        node_rank=node_rank,
        world_size=world_size,
        local_world_size=local_size,
        num_nodes=num_nodes,
        nodes=nodes,
        master_addr=_text(environ, "MASTER_ADDR", "unset it") if "MASTER_ADDR" in environ else nodes[0],
        master_port=_port(environ) if "MASTER_PORT" in environ else None,
        launch_id=f"slurm-{job}.{int(environ['SLURM_STEP_ID'])}-r{restart}",
        job_id=job,
        restart=restart,
    )


def _tasks_of_node(
    environ: Mapping[str, str], node: int, num_nodes: int, world_size: int, tasks: str, counts: str
) -> int:
    """Tasks on one node, which need not be the same on all: "2,1" for three tasks on two nodes."""
    layout = _first(environ, "SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")
    if layout in environ:
        per_node = expand_counts(layout, _text(environ, layout, _FIX_SLURM))
        if len(per_node) != num_nodes or sum(per_node) != world_size:
            reason = f"it means {sum(per_node)} tasks on {len(per_node)} nodes"
            raise _contradiction(environ, (layout, tasks, counts), reason, _FIX_SLURM)
        return per_node[node]
    if "SLURM_NTASKS_PER_NODE" in environ:
        each = _number(environ, "SLURM_NTASKS_PER_NODE", _FIX_SLURM, least=1)
        if each * num_nodes != world_size:
            reason = f"nodes x tasks per node make {each * num_nodes}"
            raise _contradiction(environ, (tasks, counts, "SLURM_NTASKS_PER_NODE"), reason, _FIX_SLURM)
        return each
    if world_size % num_nodes:
        reason = "nothing says how many tasks each node has"
        raise _contradiction(environ, (tasks, counts), reason, "give srun --ntasks-per-node")
    return world_size // num_nodes


def _step_nodes(environ: Mapping[str, str], num_nodes: int, counts: str) -> tuple[str, ...]:
    name = _first(environ, "SLURM_STEP_NODELIST", "SLURM_NODELIST", "SLURM_JOB_NODELIST")
    try:
        nodes = expand_node_list(_text(environ, name, _FIX_SLURM))
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
    if len(nodes) != num_nodes:
        raise _contradiction(environ, (name, counts), f"the list has {len(nodes)} nodes", _FIX_SLURM)
    return nodes


def _alone(environ: Mapping[str, str]) -> ClusterSpec:
    """One process; in a job of several tasks it would leave all but one of them idle, which is refused."""
    job = environ.get("SLURM_JOB_ID")
    if job:
        _refuse_idle_tasks(environ)
    restart = _optional_number(environ, "SLURM_RESTART_COUNT") if job else 0
    return ClusterSpec(
        launcher="none",
        rank=0,
        local_rank=0,
        node_rank=0,
        world_size=1,
        local_world_size=1,
        num_nodes=1,
        nodes=(),
        master_addr="127.0.0.1",
        master_port=None,
        launch_id=f"alone-{secrets.token_hex(8)}",
        job_id=job,
        restart=restart,
    )


def _refuse_idle_tasks(environ: Mapping[str, str]) -> None:
    given = [name for name in ("SLURM_NTASKS", "SLURM_NNODES", "SLURM_NTASKS_PER_NODE") if name in environ]
    tasks, nodes, each = (
        _number(environ, name, _FIX_SLURM, least=1) if name in given else None
        for name in ("SLURM_NTASKS", "SLURM_NNODES", "SLURM_NTASKS_PER_NODE")
    )
    if tasks and nodes and each and tasks > nodes * each:
        raise _contradiction(environ, given, f"nodes x tasks per node make {nodes * each}", _FIX_SLURM)
    if (tasks or (nodes or 1) * (each or 1)) > 1:
        raise UsageError(
            f"{_said(environ, given)}: the job has several tasks, but this process was not started by srun, and the "
            "others would idle; use `srun scaledl …` here, or `sbatch slurm/train.sh CONFIG`"
        )


def _first(environ: Mapping[str, str], *names: str) -> str:
    """The first of these that is set; where none is, the first, for the message that it is missing."""
    return next((name for name in names if name in environ), names[0])


def _text(environ: Mapping[str, str], name: str, fix: str) -> str:
    text = environ.get(name, "").strip()
    if not text:
        raise UsageError(f"{name}: {'empty' if name in environ else 'not set'}; {fix}")
    return text


def _number(environ: Mapping[str, str], name: str, fix: str, *, least: int = 0, most: int = _MAX_RANKS) -> int:
    text = _text(environ, name, fix)
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and least <= int(text) <= most):
        raise UsageError(f"{name}: got {text[:80]!r}; allowed: a whole number from {least} to {most}; {fix}")
    return int(text)


def _optional_number(environ: Mapping[str, str], name: str) -> int:
    return _number(environ, name, "unset it") if name in environ else 0


def _below(environ: Mapping[str, str], name: str, limit: int, limit_name: str) -> int:
    fix = _FIX_SLURM if name.startswith("SLURM_") else _FIX_RANK
    number = _number(environ, name, fix)
    if number >= limit:
        raise _contradiction(environ, (name, limit_name), f"allowed: 0 to {limit - 1}", fix)
    return number


def _port(environ: Mapping[str, str]) -> int:
    return _number(environ, "MASTER_PORT", "unset it, or name a free port", least=1, most=65535)


def _contradiction(environ: Mapping[str, str], names: tuple[str, ...] | list[str], reason: str, fix: str) -> UsageError:
    return UsageError(f"{_said(environ, names)}: {reason}; {fix}")


def _said(environ: Mapping[str, str], names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"{name}={environ[name][:80]!r}" if name in environ else f"{name} not set" for name in names)
