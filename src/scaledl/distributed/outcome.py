"""From how a process ended, and what it said before, to the last status of its rank."""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace

from scaledl.distributed.cause import describe
from scaledl.distributed.preemption import STOP_SIGNALS
from scaledl.distributed.status import CODES, FATAL, RankStatus, signal_name, status_of_exit


@dataclass(frozen=True)
class Ending:
    """`code`: the exit code, or minus the signal. `final`, `message`: the rank's last word, if it had one."""

    code: int
    final: str | None = None
    message: str = ""

    @property
    def signum(self) -> int:
        return max(0, -self.code)


def outcome(status: RankStatus, ending: Ending, cause: RankStatus | None, interrupted: bool) -> RankStatus:
    """`cause`: the rank that ends all ranks. `interrupted`: Ctrl-C was handed to this rank as a SIGTERM."""
    name = signal_name(ending.signum) if ending.signum else ""
    exit = 128 + ending.signum if ending.signum else ending.code
    ended = replace(status, signal=name, exit=exit, message=ending.message)
    if cause is not None and cause.rank == status.rank:
        return replace(ended, status=cause.status, message=cause.message)
    if ending.signum in STOP_SIGNALS:
        return _stopped_by_signal(ended, ending)
    kind = "killed" if ending.signum else status_of_exit(ending.code)
    if kind == "preempted" and interrupted:
        return replace(ended, status="interrupted", exit=CODES["interrupted"])
    if kind in FATAL and cause is not None:
        return replace(ended, status="stopped", message=f"stopped because {describe(cause)}")
    if kind in FATAL and not ending.signum and ending.final == "stopped":
        return replace(ended, status="stopped")
    return replace(ended, status=kind)


def _stopped_by_signal(ended: RankStatus, ending: Ending) -> RankStatus:
    """A rank that was about to leave, or has not come so far as to catch the signal."""
    if ending.final in CODES:
        return replace(ended, status=ending.final, signal="", exit=CODES[ending.final])
    kind = "interrupted" if ending.signum == signal.SIGINT else "preempted"
    return replace(ended, status=kind, message=f"ended by {ended.signal} before it could save anything")
