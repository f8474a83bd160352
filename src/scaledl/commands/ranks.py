"""A command on one rank or many: finds out where it is, comes together, and lets rank 0 do the verb."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from scaledl.config import Config
from scaledl.console import get_console
from scaledl.distributed.environment import ClusterSpec, detect_cluster
from scaledl.distributed.link import current_link
from scaledl.errors import ScaledlError, UsageError

if TYPE_CHECKING:
    from scaledl.distributed.ranks import Ranks

RENDEZVOUS_SECONDS = 300.0
PREFLIGHT_SECONDS = 60.0


@contextmanager
def joined(config: Config) -> Iterator[None]:
    """Around a verb that trains. On rank 0 (and on one process alone) the block runs; other ranks never reach it.

    Raises UsageError where the ranks cannot work together, SystemExit on every other rank and in the process that
    only starts and watches the ranks.
    """
    spec = detect_cluster(os.environ)
    if spec.launcher == "none" and (devices := _devices_here(config)) > 1:
        _refuse_nodes(config)
        from scaledl.distributed.local import launch_local

        raise SystemExit(launch_local(devices, sys.argv[1:]))
    if spec.launcher == "slurm" or (spec.world_size > 1 and "SCALEDL_LINK_FD" not in os.environ):
        from scaledl.distributed.guardian import guard

        guard(spec)  # only the rank returns
    current_link()
    if spec.world_size == 1 and config.trainer.strategy != "deepspeed":
        _check_alone(spec, config)
        yield
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else a lost store shows as a stack of C++
    try:
        ranks = _come_together(spec, config)
    except ScaledlError as error:
        _last_word(error)
        raise
    if not ranks.is_main:
        raise SystemExit(_follow(ranks))
    yield from _lead(ranks)


def _devices_here(config: Config) -> int:
    """Ranks that this command starts by itself: as many as the config says, else one for each GPU."""
    if config.trainer.devices != "auto":
        return config.trainer.devices
    if config.trainer.accelerator == "cpu":
        return 1
    from scaledl.run.machine import hardware

    gpus, visible = len(hardware()["gpus"]), os.environ.get("CUDA_VISIBLE_DEVICES")
    return gpus if visible is None else min(gpus, len([name for name in visible.split(",") if name.strip()]))


def _lead(ranks: Ranks) -> Iterator[None]:
    from scaledl.distributed.ranks import as_current

    code = 1
    try:
        with as_current(ranks):
            yield
        code = 0
    except ScaledlError as error:
        code = error.exit_code
        _last_word(error)
        raise
    except KeyboardInterrupt:
        code = 130
        raise
    finally:
        ranks.close(code)


def _last_word(error: ScaledlError) -> None:
    """For the guardian, which has nothing to add to an error that is told."""
    from scaledl.distributed.ranks import LostRanks
    from scaledl.distributed.status import status_of_exit

    current_link().final(status_of_exit(error.exit_code), str(error), told=not isinstance(error, LostRanks))


def _follow(ranks: Ranks) -> int:
    """What another rank has to say is an error or a warning, and then which rank it is."""
    from scaledl.distributed.ranks import as_current
    from scaledl.distributed.status import status_of_exit
    from scaledl.train.follow import FIT, follow_fit

    get_console().configure(quiet=True, prefix=f"rank {ranks.rank} on {ranks.host}: ")
    with as_current(ranks):
        code = ranks.follow({FIT: follow_fit})
    if ranks.told_by_main:
        ended = "stopped" if code in (1, 2, 3) else status_of_exit(code)
        current_link().final(ended, ranks.failure or f"rank 0 ended with exit code {code}")
    return code


def _refuse_nodes(config: Config) -> None:
    if config.trainer.num_nodes not in ("auto", 1):
        raise UsageError(
            f"trainer.num_nodes: got {config.trainer.num_nodes}, but this is one process on one machine; allowed here: "
            "1, auto; for several nodes start it with `sbatch --nodes=N slurm/train.sh`, srun, or launch/multinode.sh"
        )


def _check_alone(spec: ClusterSpec, config: Config) -> None:
    from scaledl.distributed.preflight import check_devices

    check_devices(spec, config, _visible_gpus(config))


def _visible_gpus(config: Config) -> int:
    if config.trainer.accelerator == "cpu":
        return 0
    from importlib.util import find_spec

    if find_spec("torch") is None or not Path("/proc/driver/nvidia").exists():
        return 0
    import torch

    return torch.cuda.device_count()


def _come_together(spec: ClusterSpec, config: Config) -> Ranks:
    import torch

    from scaledl.distributed.preflight import agree, agree_on_devices, check_devices, report_of
    from scaledl.distributed.ranks import join
    from scaledl.distributed.rendezvous import open_store

    gpus = _visible_gpus(config)
    if spec.world_size == 1:
        check_devices(spec, config, gpus)
    store = open_store(spec, min(config.trainer.timeout_seconds, RENDEZVOUS_SECONDS))
    if spec.world_size > 1:
        patience = min(config.trainer.timeout_seconds, PREFLIGHT_SECONDS)
        agree_on_devices(spec, store, config, gpus, patience)
        os.environ.update(agree(spec, store, report_of(spec, config, gpus), Path(config.run.root), patience))
    device = torch.device("cuda", spec.local_rank) if gpus else None
    if device is not None:
        torch.cuda.set_device(device)
    return join(
        spec,
        store,
        backend="nccl" if gpus else "gloo",
        device=device,
        timeout_seconds=config.trainer.timeout_seconds,
    )
