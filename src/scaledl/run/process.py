"""Who runs: a process named so that a later one with the same number is not taken for it."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")

RAY_WORKER = "RAY_RAYLET_PID"  # what Ray sets for its workers, and they for their children


@dataclass(frozen=True)
class Process:
    """`pid_start`: clock ticks since boot. `boot_id`: the boot and the pid namespace. Both None without /proc."""

    host: str
    pid: int
    pid_start: int | None
    boot_id: str | None

    @classmethod
    def current(cls) -> Process:
        pid = os.getpid()
        return cls(socket.gethostname(), pid, start_time(pid), boot_id())

    def is_here(self) -> bool:
        """Whether its pid means something on this machine, in this boot and pid namespace."""
        return self.host == socket.gethostname() and self.boot_id == boot_id()

    def alive(self) -> bool:
        """Whether it still runs; only meaningful where `is_here()`."""
        if self.pid_start is None:
            return _signalable(self.pid)
        return start_time(self.pid) == self.pid_start


def boot_id() -> str | None:
    """The kernel's random id of this boot, with the pid namespace: containers share the former, not their pids."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {(_PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return None


def start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat; None for a process that is gone, a zombie, or a system without /proc."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the command's name may hold spaces and parentheses
    return None if fields[0] in "ZX" else int(fields[19])


def _signalable(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
