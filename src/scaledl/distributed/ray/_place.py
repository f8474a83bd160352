"""What a machine has for a node of Ray: a private folder, an address, CPUs, and room for objects."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from scaledl.distributed.network import address_towards, addresses_of, is_local, is_loopback
from scaledl.errors import ScaledlError, UsageError

PREFIX = "sdl-"
_LOCK = "lock"
SHARED_MEMORY = "/dev/shm"  # noqa: S108
TEMPORARY = "/tmp"  # noqa: S108
LONGEST_BASE = 30  # of the 107 bytes of a Unix socket's path, what Ray's names leave
SMALLEST_STORE = 80_000_000  # bytes; Ray takes no less
LARGEST_STORE = 2_000_000_000
_STORE_SHARE = 0.1  # of the memory: trials send little
_MARGIN = 1.25
_NEW_SECONDS = 60.0
_OUTSIDE = "8.8.8.8"  # asks the kernel for the way to the network; nothing is sent


class PrivateFolder:
    """For its owner alone, who removes it with all that is in it; if it cannot, the next one that comes does."""

    def __init__(self) -> None:
        base = _base(os.environ)
        _sweep(base)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # the kernel lets go of it with this process

    def write_secret(self, name: str, secret: str) -> Path:
        path = self.path / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, secret.encode())
        os.close(descriptor)
        return path

    def remove(self) -> None:
        for _ in range(10):  # what was killed last, or the driver, may just have made a file
            _remove(self.path)
            if not self.path.exists():
                break
            time.sleep(0.05)
        os.close(self._lock)


def _base(environ: Mapping[str, str]) -> Path:
    for base in (environ.get("TMPDIR", ""), TEMPORARY):
        if base and len(os.fsencode(base)) <= LONGEST_BASE and os.access(base, os.W_OK | os.X_OK):
            return Path(base).absolute()
    raise UsageError(
        f"{TEMPORARY} cannot be written into; set TMPDIR to a folder that can, with a path of at most {LONGEST_BASE} "
        "bytes: Ray's sockets have no room for more"
    )


def _sweep(base: Path) -> None:
    """Remove the folders of owners that are gone: nobody holds their lock."""
    for folder in base.glob(PREFIX + "*"):
        with suppress(OSError):
            found = folder.lstat()
            is_new = time.time() - found.st_mtime < _NEW_SECONDS  # its owner may not have come to lock it
            if is_new or not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder)
            finally:
                os.close(lock)


def _remove(folder: Path) -> None:
    """The lock last of all: where something else cannot go, the next one still knows whose it was."""
    with suppress(OSError):
        for entry in [entry for entry in folder.iterdir() if entry.name != _LOCK]:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        (folder / _LOCK).unlink(missing_ok=True)
        folder.rmdir()


def own_address(head: str | None) -> str:
    """From which this machine reaches the head; the head's is that of the host's name, else the one to the network.

    Not the loopback where there is another: Ray would put that in its place.
    """
    candidates: list[str | None] = []
    if head is None:
        with suppress(OSError):
            candidates += [address for address in addresses_of(socket.gethostname()) if is_local(address)]
    candidates += [address_towards(head) if head else None, address_towards(_OUTSIDE)]
    return next((address for address in candidates if address and not is_loopback(address)), "127.0.0.1")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def num_cpus(environ: Mapping[str, str]) -> int:
    """Those that this process may use, and not more than Slurm gave."""
    usable, given = len(os.sched_getaffinity(0)), environ.get("SLURM_CPUS_ON_NODE", "")
    return min(usable, int(given)) if given.isdecimal() and int(given) else usable


def num_gpus(environ: Mapping[str, str]) -> int | None:
    """Those that Slurm gave; None without Slurm: Ray counts them."""
    given = environ.get("SLURM_GPUS_ON_NODE", "")
    return int(given) if given.isdecimal() else 0 if "SLURM_JOB_ID" in environ else None


def object_store(wanted: int | None, folder: Path) -> tuple[int, Path | None]:
    """Bytes for Ray's object store, and where: in `folder` where the shared memory is too small, else None.

    Raises ScaledlError where both are full.
    """
    size = max(SMALLEST_STORE, min(LARGEST_STORE, wanted or int(_memory() * _STORE_SHARE)))
    free = _free(SHARED_MEMORY)
    if free >= SMALLEST_STORE * _MARGIN:
        return min(size, int(free / _MARGIN)), None
    room = _free(str(folder))
    if room >= SMALLEST_STORE * _MARGIN:
        return SMALLEST_STORE, folder
    raise ScaledlError(
        f"{SHARED_MEMORY} has {free / 1e6:.0f} MB free and {folder.parent} {room / 1e6:.0f} MB, but Ray needs "
        f"{SMALLEST_STORE * _MARGIN / 1e6:.0f} MB in one of them; make room, or start the container with --shm-size=1g"
    )


def _memory() -> int:
    """Of the machine, or what a cgroup leaves of it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            return min(total, int(Path(limit).read_text()))
    return total


def _free(folder: str) -> int:
    try:
        found = os.statvfs(folder)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize
