"""What would hang or differ later, found before training: every rank reports, rank 0 compares, all hear the verdict."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from scaledl.config import Config
from scaledl.console import get_console
from scaledl.distributed.devices import check_devices
from scaledl.distributed.differences import one_machine, problems, skewed_clocks
from scaledl.distributed.environment import ClusterSpec
from scaledl.distributed.exchange import Json, settle
from scaledl.distributed.missing import describe_missing
from scaledl.distributed.network import LOOPBACK, is_local
from scaledl.distributed.report import GLOO_INTERFACE, Report, report_of
from scaledl.distributed.shared_folder import left_probe, look_for, unseen
from scaledl.errors import ScaledlError, UsageError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

__all__ = ["Report", "agree", "agree_on_devices", "check_devices", "report_of"]


def agree(spec: ClusterSpec, store: Store, report: Report, run_root: Path, timeout_seconds: float) -> dict[str, str]:
    """Compare the ranks. Returns environment variables that this process should have, for gloo.

    Raises UsageError on all ranks where they cannot work together; it is marked as told on all but rank 0. ScaledlError
    names ranks that do not answer in time.
    """
    with left_probe(spec.rank, run_root) as probe:
        mine = asdict(replace(report, time=time.time()))
        verdict = settle(
            store,
            "preflight/report",
            spec.rank,
            spec.world_size,
            mine,
            lambda found: _judge(spec, found, probe, timeout_seconds),
            timeout_seconds,
        )
        settle(
            store,
            "preflight/folder",
            spec.rank,
            spec.world_size,
            look_for(run_root, verdict["probe"]) | {"node": spec.node_rank, "host": spec.host},
            lambda found: _judge_folders(spec, found, timeout_seconds),
            timeout_seconds,
        )
    alone = verdict["one_machine"] and os.environ.get(GLOO_INTERFACE) is None and _has_lo()
    return {GLOO_INTERFACE: "lo"} if alone else {}


def agree_on_devices(spec: ClusterSpec, store: Store, config: Config, gpus: int, timeout_seconds: float) -> None:
    """`check_devices` on every rank; what one of them finds is raised on all, and told by rank 0."""
    problem = None
    try:
        check_devices(spec, config, gpus)
    except UsageError as error:
        problem = str(error)

    def judge(found: dict[int, Json]) -> Json:
        if len(found) < spec.world_size:
            raise ScaledlError(f"{describe_missing(spec, found)} did not answer within {timeout_seconds:g} s")
        first = next((found[rank] for rank in sorted(found) if found[rank]), None)
        if first:
            raise UsageError(first)

    settle(store, "preflight/devices", spec.rank, spec.world_size, problem, judge, timeout_seconds)


def _judge(spec: ClusterSpec, found: dict[int, Json], probe: Json, timeout_seconds: float) -> Json:
    if len(found) < spec.world_size:
        raise ScaledlError(f"{describe_missing(spec, found)} did not report within {timeout_seconds:g} s")
    reports = [Report(**found[rank]) for rank in sorted(found)]
    wrong = problems(reports)
    if wrong:
        raise UsageError(wrong[0] if len(wrong) == 1 else "\n  ".join(["the ranks cannot work together", *wrong]))
    for warning in skewed_clocks(reports):
        get_console().warn(warning)
    if "problem" in probe:
        raise UsageError(f"run.root: {probe['problem']}; choose another with run.root=PATH")
    return {"probe": probe, "one_machine": one_machine(reports)}


def _judge_folders(spec: ClusterSpec, found: dict[int, Json], timeout_seconds: float) -> None:
    if len(found) < spec.world_size:
        raise ScaledlError(f"{describe_missing(spec, found)} did not answer within {timeout_seconds:g} s")
    blind = unseen(found)
    if blind:
        raise UsageError(f"run.root: {blind}; allowed: a folder that all nodes share; choose it with run.root=PATH")


def _has_lo() -> bool:
    return is_local(LOOPBACK) and "lo" in [name for _, name in socket.if_nameindex()]
