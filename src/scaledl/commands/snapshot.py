"""How far a run is, from small files only: manifest, attempt, the end of its metrics, the status files of its ranks."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from scaledl.distributed.status import RankStatus, read_statuses, status_path
from scaledl.errors import ScaledlError
from scaledl.run import LOST_AFTER_SECONDS, Run
from scaledl.run.attempt import read_attempt
from scaledl.run.manifest import Manifest

TAIL_BYTES = 256 * 1024
HEARTBEAT = "heartbeat"


@dataclass(frozen=True)
class Snapshot:
    """Times are seconds since 1970. None is what the files do not say (yet)."""

    label: str
    status: str
    attempt: int
    step: int | None
    start_step: int | None  # where this attempt began
    total_steps: int | None
    epoch: int | None  # from 1
    epochs: int | None
    loss: float | None
    ranks_alive: int
    world_size: int
    hosts: tuple[str, ...]
    since: float | None  # when this attempt began
    seen: float | None  # the last sign of life


def take_snapshot(run: Run) -> Snapshot:
    """Of the run, or of the stage that it is at. Raises ScaledlError or OSError when it vanishes meanwhile."""
    active = _active_stage(run) or run
    manifest = run.manifest
    state = run.state
    records = _last_records(active.metrics_file)
    statuses = _newest_launch(active.path / "ranks")
    leader = statuses[0] if statuses else None
    attempt = read_attempt(active.path)
    train, val = (records.get(kind, {}) for kind in ("train", "val"))
    steps = [leader.step if leader else None, train.get("step"), val.get("step")]
    step = max((found for found in steps if found is not None), default=None)
    epochs = _epochs(active, manifest)
    epoch = max((record["epoch"] + 1 for record in (train, val) if "epoch" in record), default=None)
    total = _total_steps(train, val, epochs, manifest)
    alive = [status for status in statuses if _is_alive(active.path / "ranks", status)]
    return Snapshot(
        label=run.label if active is run else f"{run.label} {active.path.name}",
        status=state,
        attempt=manifest.attempts,
        step=step,
        start_step=leader.start_step if leader and leader.step else 0 if manifest.attempts == 1 else None,
        total_steps=total,
        epoch=epoch,
        epochs=epochs,
        loss=train["loss"] if isinstance(train.get("loss"), int | float) else None,
        ranks_alive=len(alive) if statuses else int(state == "running"),
        world_size=max(len(statuses), manifest.world_size),
        hosts=tuple(dict.fromkeys(status.host for status in statuses)) or (manifest.host,),
        since=_seconds(attempt.since) if attempt else None,
        seen=_last_sign(run, active, leader),
    )


def _active_stage(run: Run) -> Run | None:
    """The stage that a chain is at: the last one that has begun."""
    for folder in sorted(_entries(run.stages), reverse=True):
        with suppress(ScaledlError, OSError):
            stage = Run.open(folder)
            if stage.manifest.status == "running":
                return stage
    return None


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _newest_launch(folder: Path) -> list[RankStatus]:
    """Rank 0's file is always there: what belongs to another launch than it is left from earlier."""
    statuses = read_statuses(folder)
    return [status for status in statuses if status.launch == statuses[0].launch]


def _is_alive(folder: Path, status: RankStatus) -> bool:
    """Its guardian touches the file twice a minute."""
    with suppress(OSError):
        age = time.time() - status_path(folder, status.rank).stat().st_mtime
        return status.status in ("starting", "running") and age < 2 * LOST_AFTER_SECONDS
    return False


def _last_records(path: Path) -> dict[str, dict[str, Any]]:
    """The last record of each kind near the end of the metrics."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for line in reversed(lines):
        with suppress(ValueError, TypeError, LookupError):  # cut off at the front, or not yet whole at the end
            record = json.loads(line)
            if type(record["step"]) is int and type(record["epoch"]) is int:
                found.setdefault(str(record["kind"]), record)
    return found


def _epochs(active: Run, manifest: Manifest) -> int | None:
    """A stage trains for a number of epochs of its own."""
    return _trainer_number(manifest, "epochs") if active.kind == "train" else None


def _trainer_number(manifest: Manifest, key: str) -> int | None:
    with suppress(LookupError, TypeError):
        number = manifest.config["trainer"][key]
        return number if type(number) is int else None
    return None


def _total_steps(train: dict[str, Any], val: dict[str, Any], epochs: int | None, manifest: Manifest) -> int | None:
    """As recorded, else from the steps of the epochs that are complete."""
    for record in (train, val):
        if type(record.get("total_steps")) is int:
            return int(record["total_steps"])
    if epochs is None:
        return None
    limit = _trainer_number(manifest, "max_steps")
    if not val or val["step"] % (val["epoch"] + 1):
        return limit
    total = int(val["step"] // (val["epoch"] + 1) * epochs)
    return total if limit is None else min(total, limit)


def _last_sign(run: Run, active: Run, leader: RankStatus | None) -> float | None:
    signs = [_modified(path) for path in (run.path / HEARTBEAT, active.path / HEARTBEAT, active.metrics_file)]
    return max((sign for sign in (*signs, _seconds(leader.time) if leader else None) if sign), default=None)


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _seconds(moment: str) -> float | None:
    try:
        return datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return None


def running_runs(root: Path, ended: dict[Path, tuple[int, int]]) -> list[Run]:
    """The runs under ROOT that say they run, by path. `ended` remembers those that need not be read again."""
    found = []
    for folder in sorted(_run_folders(root)):
        path = folder / "manifest.json"
        with suppress(ScaledlError, OSError):
            stat = path.stat()
            stamp = (stat.st_ino, stat.st_mtime_ns)
            if ended.get(folder) == stamp:
                continue
            run = Run.open(folder)
            if run.manifest.status == "running":
                found.append(run)
            else:
                ended[folder] = stamp
    return [run for run in found if _still_runs(run)]


def _still_runs(run: Run) -> bool:
    with suppress(ScaledlError, OSError):
        return run.state == "running"
    return False


def _run_folders(root: Path) -> Sequence[Path]:
    names = [entry for entry in _entries(root) if not entry.name.startswith(".")]
    return [run for name in names for run in _entries(name) if not run.name.startswith(".") and not run.is_symlink()]
