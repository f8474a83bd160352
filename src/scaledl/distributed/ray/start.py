"""A Ray of our own on this machine or over a Slurm job, or somebody else's: each as a context, connected inside."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from scaledl.distributed.network import is_local
from scaledl.distributed.node_list import expand_node_list
from scaledl.distributed.ray.cluster import RayCluster, RayNode, require_ray
from scaledl.distributed.ray.connect import check_health, connected, living_nodes, variables
from scaledl.distributed.ray.probe import answering
from scaledl.distributed.ray.wrappers import NODE_PROGRAM, OWN_ENVIRONMENT, RAY_ENVIRONMENT, Wrappers
from scaledl.errors import UsageError

CONTAINER_VARIABLE = "SCALEDL_CONTAINER"  # of slurm/common.sh: what stands before every command
_LOCAL_STORE = 500_000_000  # bytes, of all nodes on this machine together
# Of the job's own options, what would lay the step out otherwise.
_LAYOUT = ("SLURM_NTASKS", "SLURM_NPROCS", "SLURM_CPU_BIND", "SLURM_MEM_", "SLURM_TRES_", "SLURM_DISTRIBUTION", "SRUN_")


@contextmanager
def local_ray(cpus: int, gpus: int = 0, *, num_nodes: int = 1) -> Iterator[RayCluster]:
    """A private Ray on this machine; `cpus` and `gpus` are those of each node."""
    require_ray()
    host = socket.gethostname()
    names = [host] if num_nodes == 1 else [f"{host}-{index}" for index in range(num_nodes)]
    with _wrapped(_local_commands(num_nodes), names, os.environ) as wrappers:
        wrappers.start(cpus=[cpus] * num_nodes, gpus=gpus, store=_LOCAL_STORE // num_nodes)
        with _driving(wrappers) as cluster:
            yield cluster


def _local_commands(num_nodes: int) -> list[list[str]]:
    return [[*NODE_PROGRAM, str(index)] for index in range(num_nodes)]


def in_allocation(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process belongs to a job of Slurm, and not to a Ray within it."""
    return bool(environ.get("SLURM_JOB_ID")) and "RAY_RAYLET_PID" not in environ


@contextmanager
def ray_over_allocation(cpus_per_node: int | None = None, gpus_per_node: int | None = None) -> Iterator[RayCluster]:
    """A private Ray over the nodes of this Slurm job; None: all that Slurm gave on each node.

    One srun step starts it on all nodes; where this one is the only one, none is needed. This process has to run on
    the first node, as batch scripts do.
    """
    require_ray()
    names = _job_nodes(os.environ)
    is_alone = names == [os.environ.get("SLURMD_NODENAME")]
    commands = _local_commands(1) if is_alone else [_srun(len(names), os.environ)]
    with _wrapped(commands, names, os.environ if is_alone else _step_environment(os.environ)) as wrappers:
        wrappers.start(cpus=[cpus_per_node] * len(names), gpus=gpus_per_node)
        if not is_local(wrappers.address.rpartition(":")[0]):
            raise UsageError(
                f"{socket.gethostname()} is not {names[0]}, the first node of job {os.environ['SLURM_JOB_ID']}; start "
                "the search there, as the batch script does: sbatch slurm/tune.sh"
            )
        with _driving(wrappers) as cluster:
            yield cluster


def _job_nodes(environ: Mapping[str, str]) -> list[str]:
    if not in_allocation(environ):
        raise UsageError("SLURM_JOB_ID: not set; this is no Slurm job: submit it with sbatch slurm/tune.sh")
    text = environ.get("SLURM_JOB_NODELIST") or environ.get("SLURM_NODELIST") or ""
    if not text:
        raise UsageError("SLURM_JOB_NODELIST: not set; submit the search with sbatch slurm/tune.sh")
    return list(expand_node_list(text))


def _srun(num_nodes: int, environ: Mapping[str, str]) -> list[str]:
    """One task a node, beside whatever runs there, with all CPUs and memory of the job; it outlives lost nodes."""
    if shutil.which("srun") is None:
        raise UsageError(
            "srun was not found on PATH: this node cannot start Ray on the others; load Slurm's commands here (a "
            "container needs them inside), or use one node"
        )
    return [
        *("srun", "--overlap", f"--nodes={num_nodes}", f"--ntasks={num_nodes}", "--ntasks-per-node=1"),
        *("--input=all", "--kill-on-bad-exit=0", "--no-kill", "--mem=0", "--cpu-bind=none", "--export=ALL"),
        *shlex.split(environ.get(CONTAINER_VARIABLE, "")),
        *NODE_PROGRAM,
    ]


def _step_environment(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if not name.startswith(_LAYOUT)}


@contextmanager
def existing_ray(address: str) -> Iterator[RayCluster]:
    """Somebody's Ray, which is left as it is. Raises UsageError within seconds where it cannot be used."""
    require_ray()
    found = answering(address)
    with variables({**RAY_ENVIRONMENT, "RAY_ADDRESS": None}), connected(found):
        yield RayCluster(found, _nodes(living_nodes(), []), is_ours=False)


@contextmanager
def _wrapped(commands: Sequence[Sequence[str]], names: Sequence[str], environ: Mapping[str, str]) -> Iterator[Wrappers]:
    wrappers = Wrappers(commands, names, environ)
    try:
        yield wrappers
    finally:
        wrappers.close()


@contextmanager
def _driving(wrappers: Wrappers) -> Iterator[RayCluster]:
    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": wrappers.token_file,
        "RAY_AUTH_TOKEN": None,
        "RAY_ADDRESS": None,
    }
    with variables({**OWN_ENVIRONMENT, **own}), connected(wrappers.address):
        check_health(len(wrappers.nodes))
        nodes = _nodes(living_nodes(), wrappers.nodes)
        yield RayCluster(wrappers.address, nodes, is_ours=True, _look=wrappers.fail_reason)


def _nodes(found: Sequence[Mapping[str, Any]], states: Sequence[Any]) -> tuple[RayNode, ...]:
    """Ray's nodes, with what the wrapper of each has told."""
    by_name = {state.name: state for state in states}
    return tuple(_node(node, by_name.get(node["NodeName"])) for node in found)


def _node(node: Mapping[str, Any], state: Any) -> RayNode:
    resources = node["Resources"]
    return RayNode(
        name=node["NodeName"] if state else node.get("NodeManagerHostname") or node["NodeName"],
        node_id=node["NodeID"],
        address=node["NodeManagerAddress"],
        cpus=int(resources.get("CPU", 0)),
        gpus=int(resources.get("GPU", 0)),
        is_head="node:__internal_head__" in resources,
        wrapper=state.pid if state else None,
        raylet=state.raylet if state else None,
        folder=state.folder if state else None,
    )
