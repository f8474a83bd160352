"""Who has a TCP port of this machine, as far as /proc shows it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from scaledl.config.errors import printable

_PROC = Path("/proc")
_LISTENING = "0A"


def owner_of_port(port: int) -> str:
    """For a message: "process 17 (python -m http.server)"."""
    sockets = _sockets_on(port)
    if not sockets:
        return "a process that cannot be seen from here"
    for listening in (True, False):
        inodes = {f"socket:[{inode}]" for inode, listens in sockets.items() if listens == listening}
        pid = _holder(inodes) if inodes else None
        if pid is not None:
            return f"process {pid} ({_command(pid)})"
    return "a process of another user"


def _sockets_on(port: int) -> dict[str, bool]:
    """Inode -> whether it listens, of all sockets with this local port."""
    found = {}
    for table in ("net/tcp", "net/tcp6"):
        with suppress(OSError):
            for line in (_PROC / table).read_text().splitlines()[1:]:
                fields = line.split()
                if int(fields[1].rpartition(":")[2], 16) == port and fields[9] != "0":
                    found[fields[9]] = fields[3] == _LISTENING
    return found


def _holder(links: set[str]) -> int | None:
    for process in _PROC.glob("[0-9]*"):
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    if str(descriptor.readlink()) in links:
                        return int(process.name)
    return None


def _command(pid: int) -> str:
    with suppress(OSError):
        words = (_PROC / str(pid) / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
        return printable(words.decode(errors="replace"))[:120] or (_PROC / str(pid) / "comm").read_text().strip()
    return "gone"
