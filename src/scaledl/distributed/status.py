"""What became of each rank: one small file a rank, for batch scripts, for other guardians and for people."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

from scaledl.console import printable
from scaledl.run.files import atomic_write, storage_errors, temporary_beside

STATUSES = (
    *("starting", "running", "preempted", "interrupted", "complete"),
    *("refused", "failed", "killed", "hung", "stopped"),
)
ENDED = STATUSES[2:]
FATAL = ("refused", "failed", "killed", "hung")  # ends all ranks
LEAVING = ("preempted", "interrupted")
CODES = {"complete": 0, "failed": 1, "stopped": 1, "hung": 1, "refused": 2, "preempted": 75, "interrupted": 130}
MESSAGE_LENGTH = 500
_INTEGERS = ("step", "start_step", "stage", "attempt", "rank", "pid")


@dataclass(frozen=True)
class RankStatus:
    """`launch` tells the files of one start of the job from those of another; `time` is the rank's last sign of life.

    `start_step`: where this attempt began. `stage`: of a compression; each counts its steps from 0. `signal`: what
    killed it. `exit`: as a shell sees it, 137 for SIGKILL.
    """

    launch: str
    status: str
    step: int = 0
    start_step: int = 0
    attempt: int = 0
    rank: int = 0
    host: str = ""
    pid: int = 0
    signal: str = ""
    exit: int | None = None
    time: str = ""
    message: str = ""
    stage: int = 0

    def text(self) -> str:
        """Lines `key=value`, each value on one line."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return "".join(f"{name}={one_line(value)}\n" for name, value in values)

    @classmethod
    def parse(cls, text: str) -> RankStatus:
        """Raises ValueError for what is no status; unknown keys are those of a newer version."""
        values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        known = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        if "launch" not in known or known.get("status") not in STATUSES:
            raise ValueError(f"the launch is missing, or the status is none of {', '.join(STATUSES)}")
        numbers = {name: int(known[name]) for name in _INTEGERS if name in known}
        exit = known.get("exit")
        return cls(**{**known, **numbers, "exit": int(exit) if exit else None})  # type: ignore[arg-type]


def one_line(value: object) -> str:
    """
    >>> one_line("a\\n b"), one_line(None), one_line(3)
    ('a b', '', '3')
    """
    text = "" if value is None else " ".join(printable(str(value)).split())
    return text if len(text) <= MESSAGE_LENGTH else text[: MESSAGE_LENGTH - 1] + "…"


def status_path(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank:05}.status"


def write_status(folder: Path, status: RankStatus, *, durable: bool = True) -> None:
    """Replace a rank's file in one step; `durable`: synced to the disk. Raises ScaledlError when storage refuses."""
    path = status_path(folder, status.rank)
    if durable:
        return atomic_write(path, status.text(), "rank's status")
    temporary = temporary_beside(path)
    with storage_errors(path, "rank's status"):
        try:
            temporary.write_text(status.text(), encoding="utf-8")
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    return None


def read_status(path: Path) -> RankStatus | None:
    """None when there is no file, or none that can be read."""
    try:
        return RankStatus.parse(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError):
        return None


def read_statuses(folder: Path, launch: str | None = None) -> list[RankStatus]:
    """The ranks' files in order of ranks; of one launch only, if given. What cannot be read is left out."""
    try:
        paths = sorted(folder.glob("rank-*.status"))
    except OSError:
        return []
    found: Iterable[RankStatus | None] = map(read_status, paths)
    statuses = [status for status in found if status is not None and launch in (None, status.launch)]
    return sorted(statuses, key=lambda status: status.rank)


def status_of_exit(code: int) -> str:
    """The status that an exit code stands for.

    >>> [status_of_exit(code) for code in (0, 1, 2, 3, 75, 130, 7)]
    ['complete', 'failed', 'refused', 'refused', 'preempted', 'interrupted', 'failed']
    """
    return {0: "complete", 2: "refused", 3: "refused", 75: "preempted", 130: "interrupted"}.get(code, "failed")


def signal_name(number: int) -> str:
    """
    >>> signal_name(9), signal_name(40)
    ('SIGKILL', 'signal 40')
    """
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
