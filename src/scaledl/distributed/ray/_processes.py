"""How the processes of one Ray node end: workers may finish, its servers need not. Linux only."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from pathlib import Path

from scaledl.distributed.processes import descendants, reap, send

_POLL_SECONDS = 0.02
_AGENTS = ("ray::DashboardA", "ray::RuntimeEnv")


def end_all(patience_seconds: float, ray: int) -> None:
    """Nothing remains below this process. Workers may finish what they do; the servers that `ray`, the process of
    `ray start`, has started need not: GCS takes seconds over its end."""
    servers = {ray, *_children(ray)}
    send(descendants(), signal.SIGTERM)
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline and any(_is_worker(pid, servers) for pid in descendants()):
        reap()
        time.sleep(_POLL_SECONDS)
    while left := descendants():  # one that is killed may bring others into sight
        send(left, signal.SIGKILL)
        reap()
        time.sleep(_POLL_SECONDS)
    reap()


def _is_worker(pid: int, servers: set[int]) -> bool:
    return pid not in servers and not name_of(pid).startswith(_AGENTS)


def name_of(pid: int) -> str:
    """At most 15 letters, as the kernel keeps it; "" when it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def ending(code: int) -> str:
    """
    >>> ending(-9), ending(1)
    ('was killed by SIGKILL', 'ended with exit code 1')
    """
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    return []
