"""Where the trials run: this machine, the nodes of a Slurm job, or a cluster that is there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from scaledl.config import Config
from scaledl.console import get_console
from scaledl.distributed.ray import (
    RayCluster,
    RayNode,
    check_shared,
    existing_ray,
    in_allocation,
    local_ray,
    ray_over_allocation,
)
from scaledl.run.machine import num_cpus
from scaledl.tune.slots import Slots, count_slots


@contextmanager
def ray_for(config: Config, folder: Path, *, address: str | None = None) -> Iterator[tuple[RayCluster, Slots]]:
    """Ray with the slots that the config asks for. Raises UsageError where not even one trial fits.

    `folder`: the search's, which all nodes must see.
    """
    with _ray(config, address) as cluster, _without_remains(cluster):
        slots = slots_of(config, cluster.nodes)
        where = f"{cluster.num_nodes} nodes" if cluster.num_nodes > 1 else "this machine" if cluster.is_ours else "Ray"
        get_console().info(f"{slots.count} trial{'s' * (slots.count != 1)} at a time on {where}, {_each(slots)} each")
        if cluster.num_nodes > 1 or not cluster.is_ours:
            check_shared(cluster, folder)
        yield cluster, slots


@contextmanager
def _ray(config: Config, address: str | None) -> Iterator[RayCluster]:
    if address is not None:
        with existing_ray(address) as cluster:
            yield cluster
    elif in_allocation():
        with ray_over_allocation() as cluster:
            yield cluster
    else:
        with local_ray(num_cpus(), _gpus_here()) as cluster:
            yield cluster


@contextmanager
def _without_remains(cluster: RayCluster) -> Iterator[None]:
    """Where Ray was lost its folder went with it, but the driver may have written there once more."""
    try:
        yield
    finally:
        if cluster.fail_reason(head_only=True):
            remove_remains(cluster)


def remove_remains(cluster: RayCluster) -> None:
    if cluster.is_ours and cluster.temp_dir is not None:
        shutil.rmtree(cluster.temp_dir, ignore_errors=True)


def check_here(config: Config) -> None:
    """Refuse trials that this machine is too small for, before anything starts; a job's nodes are seen later."""
    if not in_allocation():
        slots_of(config, [RayNode("this machine", "", "", num_cpus(), _gpus_here())])


def slots_of(config: Config, nodes: Sequence[RayNode]) -> Slots:
    """Raises UsageError where not even one trial fits."""
    has_gpus = any(node.gpus for node in nodes)
    ranks = ranks_of(config)
    gpus = config.tune.gpus
    if gpus == "auto":
        gpus = float(ranks) if has_gpus and config.trainer.accelerator != "cpu" else 0.0
    slots = Slots(0, max(config.tune.cpus, float(ranks)), gpus)
    return count_slots(slots, [(node.name, float(node.cpus), float(node.gpus)) for node in nodes])


def ranks_of(config: Config) -> int:
    """Processes of one trial."""
    return config.trainer.devices if isinstance(config.trainer.devices, int) else 1


def _gpus_here() -> int:
    if not Path("/dev/nvidiactl").exists():
        return 0
    import torch

    return torch.cuda.device_count()


def _each(slots: Slots) -> str:
    cpus = f"{slots.cpus:g} CPU{'s' * (slots.cpus != 1)}"
    return f"{cpus} and {slots.gpus:g} GPU{'s' * (slots.gpus != 1)}" if slots.gpus else cpus
