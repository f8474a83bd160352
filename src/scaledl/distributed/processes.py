"""The processes below this one, from /proc (proc(5)). Linux only."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_SECONDS = 0.02


def adopt_orphans() -> None:
    """Descendants whose parent dies become children of this process instead of init's: none gets out of sight."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def leaving_with(parent: int) -> Callable[[], None]:
    """A function for a new child to call: when `parent` is gone, however that ended, the kernel asks it to leave too.

    Not killed, as by `distributed.parent.dying_with`: a launcher has ranks to take along.
    """
    if sys.platform != "linux":
        return lambda: None
    import ctypes

    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:  # it was faster
            os._exit(1)

    return tie


def descendants(pid: int | None = None) -> list[int]:
    """Living processes below `pid` (this one), parents before their children."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError, ValueError):
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
            if fields[0] not in "ZX":
                children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [os.getpid() if pid is None else pid]
    for known in found:
        found += children.get(known, [])
    return found[1:]


def rank_leaders() -> list[int]:
    """Of the processes below this one those that a launcher started as ranks, and not what these started."""
    ranks = {pid for pid in descendants() if _is_rank(pid)}
    return sorted(pid for pid in ranks if _parent(pid) not in ranks)


def _is_rank(pid: int) -> bool:
    with suppress(OSError):
        return any(line.startswith(b"RANK=") for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    return False


def _parent(pid: int) -> int:
    with suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    return 0


def send(pids: list[int], signum: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signum)


def end_all(patience_seconds: float) -> None:
    """Nothing remains below this process: what does not leave when asked to is killed."""
    send(descendants(), signal.SIGTERM)
    deadline = time.monotonic() + patience_seconds
    while (left := descendants()) and time.monotonic() < deadline:
        reap()
        time.sleep(_POLL_SECONDS)
    while left := descendants():  # killing a parent can bring new children into sight
        send(left, signal.SIGKILL)
        reap()
        time.sleep(_POLL_SECONDS)
    reap()


def reap() -> dict[int, int]:
    """Exit codes (minus the signal) of all children that have ended, adopted ones too."""
    ended = {}
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended[pid] = os.waitstatus_to_exitcode(status)
    return ended
