"""What would hang or differ later, found before training: every rank reports, rank 0 compares, all hear the verdict."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaledl.console import get_console
from scaledl.distributed.devices import check_devices
from scaledl.distributed.differences import one_machine, problems, skewed_clocks
from scaledl.distributed.environment import ClusterSpec
from scaledl.distributed.exchange import Json, pauses, settle
from scaledl.distributed.missing import describe_missing, ranks
from scaledl.distributed.network import LOOPBACK, is_local
from scaledl.distributed.report import GLOO_INTERFACE, Report, report_of
from scaledl.errors import ScaledlError, UsageError
from scaledl.run.files import storage_problem

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

__all__ = ["Report", "agree", "check_devices", "report_of"]

PATIENCE_SECONDS = 5.0  # of a network filesystem, with what another node has just written


def agree(spec: ClusterSpec, store: Store, report: Report, run_root: Path, timeout_seconds: float) -> dict[str, str]:
    """Compare the ranks. Returns environment variables that this process should have, for gloo.

    Raises UsageError on all ranks where they cannot work together; it is marked as told on all but rank 0. ScaledlError
    names ranks that do not answer in time.
    """
    with _probe(spec.rank, run_root) as probe:
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
            _look(run_root, verdict["probe"]) | {"node": spec.node_rank, "host": spec.host},
            lambda found: _judge_folders(spec, found, timeout_seconds),
            timeout_seconds,
        )
    alone = verdict["one_machine"] and os.environ.get(GLOO_INTERFACE) is None and _has_lo()
    return {GLOO_INTERFACE: "lo"} if alone else {}


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
        raise UsageError(probe["problem"])
    return {"probe": probe, "one_machine": one_machine(reports)}


def _judge_folders(spec: ClusterSpec, found: dict[int, Json], timeout_seconds: float) -> None:
    if len(found) < spec.world_size:
        raise ScaledlError(f"{describe_missing(spec, found)} did not answer within {timeout_seconds:g} s")
    blind = [rank for rank in sorted(found) if not found[rank]["found"]]
    if blind:
        hosts = ", ".join(dict.fromkeys(found[rank]["host"] for rank in blind))
        raise UsageError(
            f"run.root: {ranks(blind)} ({hosts}) cannot see in {found[blind[0]]['folder']} what rank 0 "
            f"({found[0]['host']}) wrote into {found[0]['folder']}; allowed: a folder that all nodes share; "
            "choose it with run.root=PATH"
        )


# The folder of runs: rank 0 leaves a hidden file there, and the others look for it


@contextmanager
def _probe(rank: int, run_root: Path) -> Iterator[Json]:
    """The probe as others may find it, {} on other ranks; {"problem": …} where nothing can be written."""
    if rank:
        yield {}
        return
    folders = _folders(run_root)
    level = next(index for index, folder in enumerate(folders) if folder.is_dir())
    path = folders[level] / f".scaledl-probe-{secrets.token_hex(8)}"
    try:
        path.touch(exist_ok=False)
    except OSError as error:
        problem = storage_problem(error, folders[level]) or error.strerror
        yield {"problem": f"run.root: cannot write into {folders[level]}: {problem}; choose another with run.root=PATH"}
        return
    try:
        yield {"name": path.name, "level": level}
    finally:
        with suppress(OSError):
            path.unlink()


def _look(run_root: Path, probe: Json) -> dict[str, Any]:
    """Whether the probe is there: in the same folder as rank 0's, counted upwards from the folder of runs."""
    folders = _folders(run_root)
    folder = folders[min(probe["level"], len(folders) - 1)]
    path = folder / probe["name"]
    found = _is_file(path) or any(_is_file(path) for _ in pauses(time.monotonic() + PATIENCE_SECONDS))
    return {"found": found, "folder": str(folder)}


def _folders(run_root: Path) -> list[Path]:
    path = run_root.absolute()
    return [path, *path.parents]


def _is_file(path: Path) -> bool:
    with suppress(OSError):
        return path.is_file()
    return False


def _has_lo() -> bool:
    return is_local(LOOPBACK) and "lo" in [name for _, name in socket.if_nameindex()]
