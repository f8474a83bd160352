"""Attempts at a run: one live writer at a time, known by a token; an older one stops when it sees a newer one."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from scaledl.errors import ScaledlError
from scaledl.run.files import atomic_json, storage_problem
from scaledl.run.manifest import now
from scaledl.run.process import Process

LOST_AFTER_SECONDS = 60.0
HEARTBEAT_SECONDS = 10.0
FILE_NAME = "attempt.json"
_HEARTBEAT = "heartbeat"
_LOCK = ".lock"
_LOCK_TIMEOUT_SECONDS = 30.0
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@dataclass(frozen=True)
class Attempt:
    """`job` is the Slurm job and `restart` how often Slurm requeued it; `released` after a clean end."""

    attempt: int
    token: str
    host: str
    pid: int
    pid_start: int | None
    boot_id: str | None
    since: str
    job: str | None
    restart: int
    released: bool = False

    @classmethod
    def new(cls, number: int) -> Attempt:
        process = Process.current()
        restart = os.environ.get("SLURM_RESTART_COUNT", "")
        return cls(
            attempt=number,
            token=secrets.token_hex(16),
            **asdict(process),
            since=now(),
            job=os.environ.get("SLURM_JOB_ID") or None,
            restart=int(restart) if restart.isdecimal() else 0,
        )

    @property
    def process(self) -> Process:
        return Process(self.host, self.pid, self.pid_start, self.boot_id)

    def yields_to(self, newer: Attempt) -> bool:
        """Slurm requeued the job: what is left of its earlier start is an orphan that no signal reaches."""
        return self.job is not None and self.job == newer.job and newer.restart > self.restart

    def who(self) -> str:
        job = f" (Slurm job {self.job})" if self.job else ""
        return f"process {self.pid} on {self.host}{job} since {self.since[:19]} UTC"


def read_attempt(directory: Path) -> Attempt | None:
    """The attempt on disk; None when there is none that can be read."""
    try:
        return Attempt(**json.loads((directory / FILE_NAME).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def write_attempt(directory: Path, attempt: Attempt) -> None:
    atomic_json(directory / FILE_NAME, asdict(attempt), what="attempt token")


def beat(directory: Path) -> None:
    """Show other machines that this attempt lives."""
    with suppress(OSError):  # a sign of life that cannot be given must not end a training
        (directory / _HEARTBEAT).touch()


def liveness(process: Process, directory: Path) -> str:
    """`running`, `killed` (seen to be gone), or `lost`: on another machine and silent for a minute."""
    if process.is_here():
        return "running" if process.alive() else "killed"
    if _heartbeat_age(directory) < LOST_AFTER_SECONDS:
        return "running"
    return "killed" if process.host == Process.current().host else "lost"


def _heartbeat_age(directory: Path) -> float:
    try:
        return time.time() - (directory / _HEARTBEAT).stat().st_mtime
    except OSError:
        return float("inf")


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold the run's lock for a few file operations, against threads and processes.

    Raises ScaledlError when it is not to be had for 30 s, or the storage refuses.
    """
    path = directory / _LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        problem = storage_problem(error, directory) or error.strerror
        raise ScaledlError(f"cannot write the lock {path}: {problem}") from error
    try:
        _acquire(descriptor, path)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + _LOCK_TIMEOUT_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ScaledlError(
                    f"{path} has been locked by another process for {_LOCK_TIMEOUT_SECONDS:.0f} s"
                ) from None
        except OSError as error:
            if error.errno in _NO_LOCKS:  # a filesystem without locks: the token alone decides
                return
            raise
        time.sleep(0.01)
