"""Which checkpoints a folder holds, whether they are whole, and which of them stay."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from scaledl.console import get_console
from scaledl.run import sha256_file
from scaledl.run.files import Rest, no_rest

FORMAT_VERSION = 1
_NAME = re.compile(r"step-(\d+)\.(?:ckpt|json)")


@dataclass(frozen=True)
class CheckpointInfo:
    """The second file of a checkpoint. `step` counts optimizer steps, `epoch` is 0-based."""

    format: int
    step: int
    epoch: int
    epoch_complete: bool
    size: int
    sha256: str
    val_loss: float | None = None


def step_of(path: Path) -> int:
    """The optimizer step in a checkpoint's name; -1 for another file.

    >>> step_of(Path("step-00000450.ckpt")), step_of(Path("settings.json"))
    (450, -1)
    """
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def candidates(directory: Path) -> list[Path]:
    """Every checkpoint of which either file is there, newest first."""
    found = {path.with_suffix(".ckpt") for path in directory.glob("step-*") if step_of(path) >= 0}
    return sorted(found, key=step_of, reverse=True)


def read_info(path: Path) -> CheckpointInfo | None:
    """The content of a checkpoint's second file; None when it is missing or damaged."""
    try:
        info = CheckpointInfo(**json.loads(path.with_suffix(".json").read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    numbers = (info.format, info.step, info.epoch, info.size)
    return info if all(type(number) is int for number in numbers) and info.step == step_of(path) else None


def scan(directory: Path) -> list[tuple[Path, CheckpointInfo]]:
    """All checkpoints with a readable second file, newest first; their content is not verified yet."""
    infos = ((path, read_info(path)) for path in candidates(directory))
    return [(path, info) for path, info in infos if info is not None]


def problem(path: Path, info: CheckpointInfo, rest_fn: Rest = no_rest) -> str | None:
    """Why this checkpoint cannot be used, or None."""
    if info.format != FORMAT_VERSION:
        return f"its format is {info.format}, this scaledl reads {FORMAT_VERSION}"
    if not path.is_file():
        return "the file is missing"
    if path.stat().st_size != info.size:
        return f"it has {path.stat().st_size:,} bytes instead of {info.size:,}"
    if sha256_file(path, rest_fn) != info.sha256:
        return "its content does not match its SHA-256"
    return None


def newest_verified(directory: Path) -> tuple[Path, CheckpointInfo] | None:
    """The newest checkpoint whose hash verifies; damaged ones are passed over with a warning each."""
    for path in candidates(directory):
        info = read_info(path)
        reason = _sidecar_problem(path) if info is None else problem(path, info)
        if info is not None and reason is None:
            return path, info
        get_console().warn(f"passing over {path}: {reason}")
    return None


def _sidecar_problem(path: Path) -> str:
    sidecar = path.with_suffix(".json")
    return f"its {sidecar.name} is damaged" if sidecar.is_file() else f"there is no {sidecar.name}: it was cut off"


def prune_old(directory: Path, keep_last: int, rest_fn: Rest = no_rest) -> None:
    """Remove all but the newest `keep_last` and the best (lowest validation loss), only once the newest verifies.

    What is older than the newest and has no readable second file goes as well: nothing would ever load it.
    """
    found = scan(directory)
    if not found or problem(*found[0], rest_fn) is not None:
        return
    kept = {best_of(found), *(path for path, _ in found[:keep_last])}
    for path in candidates(directory):
        if path not in kept and step_of(path) < found[0][1].step:
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def best_of(found: list[tuple[Path, CheckpointInfo]]) -> Path | None:
    """The checkpoint with the lowest validation loss."""
    scored = [(info.val_loss, path) for path, info in found if info.val_loss is not None]
    return min(scored)[1] if scored else None


def best_verified(directory: Path) -> Path | None:
    """The best checkpoint whose hash verifies; a damaged one gives way to the next with a warning."""
    found = scan(directory)
    while (best := best_of(found)) is not None:
        reason = next(problem(path, info) for path, info in found if path == best)
        if reason is None:
            return best
        get_console().warn(f"passing over {best}, the best so far: {reason}")
        found = [(path, info) for path, info in found if path != best]
    return None
