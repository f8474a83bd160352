"""Which run is meant: by a path, NAME, NAME/ID, ID, or nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scaledl.console import get_console
from scaledl.errors import UsageError
from scaledl.run.create import LATEST
from scaledl.run.directory import Run
from scaledl.run.manifest import FILE_NAME
from scaledl.run.process import RAY_WORKER

if TYPE_CHECKING:
    from scaledl.config.schema import Config

_TRAIN_ONE = "train one with `scaledl train configs/digits.yaml`"
_LISTED = 10
_warned: set[Path] = set()  # a verb lists the runs several times


def default_id(config: Config) -> str | None:
    """`run.id`, else the Slurm job id (ARRAYJOB_INDEX in an array), else None: a new one is to be made.

    A worker of Ray has no job of its own: others run in the same one.
    """
    if config.run.id is not None or RAY_WORKER in os.environ:
        return config.run.id
    array = [os.environ.get(key, "") for key in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")]
    id = "_".join(array) if all(array) else os.environ.get("SLURM_JOB_ID", "")
    if id and not re.fullmatch(r"\w{1,100}", id, re.ASCII):
        raise UsageError(f"the Slurm job id in the environment is {id!r}, not a number; set run.id=NAME")
    return id or None


def list_runs(root: Path) -> list[Run]:
    """All runs ROOT/NAME/ID, newest first. What cannot be read is skipped with a warning."""
    return [run for _, run in _newest_first(folder for name in _folders(Path(root)) for folder in _folders(name))]


def find_run(
    ref: str | None, root: Path, *, kinds: Sequence[str] = ("train",), status: str | Sequence[str] | None = "complete"
) -> Run:
    """The run that `ref` means: a path, NAME (its newest), NAME/ID, an ID, or None for the newest under `root`.

    It is of one of `kinds` and of one of the statuses (None: any).
    Raises UsageError that says what is there, and how to make one.
    """
    root = Path(root)
    if ref is None:
        return _newest(list_runs(root), kinds, status, f"under {root}")
    found = _candidates(ref, root)
    if len(found) > 1:
        raise UsageError(f"{ref!r} is ambiguous: it may be {', '.join(str(path) for path in found)}; give one of these")
    if not found:
        raise UsageError(
            f"no run {ref!r}: neither a path nor a NAME, NAME/ID or ID under {root}; {_there(list_runs(root))}"
        )
    if (found[0] / FILE_NAME).exists():
        return _checked(Run.open(found[0]), kinds, status)
    runs = [run for _, run in _newest_first(_folders(found[0]))]
    return _newest(runs, kinds, status, f"in {found[0]}")


def _candidates(ref: str, root: Path) -> list[Path]:
    """Folders that `ref` may mean, each once: runs, or the folder of a NAME."""
    if "\0" in ref or not ref:
        return []
    path = Path(ref)
    if path.is_absolute() or ".." in path.parts:
        places = [path]
    else:
        places = [path, root / path, *(_by_id(ref, root) if len(path.parts) == 1 else ())]
    found: dict[Path, Path] = {}
    for place in places:
        folder = _without_latest(place)
        if _holds_run(folder):
            found.setdefault(_real(folder), folder)
    return list(found.values())


def _by_id(id: str, root: Path) -> Iterable[Path]:
    return (folder / id for folder in _folders(root))


def _without_latest(path: Path) -> Path:
    """What NAME/latest points at; NAME where it dangles or is missing, so that the newest there is taken."""
    if path.name != LATEST:
        return path
    return path.parent / path.readlink() if path.is_symlink() and path.exists() else path.parent


def _holds_run(path: Path) -> bool:
    try:
        return (path / FILE_NAME).exists() or any((folder / FILE_NAME).exists() for folder in _folders(path))
    except OSError:
        return False


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _folders(path: Path) -> list[Path]:
    """Folders in a folder: no links, nothing hidden."""
    try:
        entries = sorted(path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        get_console().warn(f"{path} cannot be read: {error.strerror}")
        return []
    return [entry for entry in entries if not entry.name.startswith(".") and not entry.is_symlink() and entry.is_dir()]


def _newest_first(folders: Iterable[Path]) -> list[tuple[str, Run]]:
    found: list[tuple[str, Run]] = []
    for folder in folders:
        if not (folder / FILE_NAME).exists():
            continue
        try:
            run = Run.open(folder)
            found.append((run.manifest.created, run))
        except UsageError as error:
            _warn_once(folder, f"skipped: {error}")
    return sorted(found, key=lambda item: (item[0], item[1].id), reverse=True)


def _warn_once(folder: Path, text: str) -> None:
    if folder.absolute() not in _warned:
        _warned.add(folder.absolute())
        get_console().warn(text)


def _newest(runs: list[Run], kinds: Sequence[str], status: str | Sequence[str] | None, where: str) -> Run:
    for run in runs:
        if run.kind in kinds and _matches(run.manifest.status, status):
            return run
    if not runs:
        raise UsageError(f"no run yet {where}: {_TRAIN_ONE}")
    raise UsageError(f"no {_wanted(kinds, status)} run {where}; {_there(runs)}")


def _checked(run: Run, kinds: Sequence[str], status: str | Sequence[str] | None) -> Run:
    if run.kind not in kinds:
        raise UsageError(f"run {run.label} is a {run.kind} run; {_wanted(kinds, None)} is needed here")
    if not _matches(run.manifest.status, status):
        go_on = f"; go on with it: scaledl train --resume {run.label}" if run.kind == "train" else ""
        raise UsageError(f"run {run.label} is {run.state}; a {_wanted((), status)} one is needed here{go_on}")
    return run


def _matches(got: str, wanted: str | Sequence[str] | None) -> bool:
    return wanted is None or got == wanted or (not isinstance(wanted, str) and got in wanted)


def _wanted(kinds: Sequence[str], status: str | Sequence[str] | None) -> str:
    statuses = () if status is None else (status,) if isinstance(status, str) else status
    return " ".join(part for part in (" or ".join(statuses), " or ".join(kinds)) if part)


def _there(runs: list[Run]) -> str:
    if not runs:
        return f"there is no run yet: {_TRAIN_ONE}"
    shown = ", ".join(f"{run.label} ({run.kind}, {run.state})" for run in runs[:_LISTED])
    more = f" and {len(runs) - _LISTED} more" if len(runs) > _LISTED else ""
    return f"there are {shown}{more}; name one, or {_TRAIN_ONE}"
