"""Why all ranks stop: one file a launch, written by the guardian that saw it first and looked for by all others.

So a guardian looks at one file a second, however many ranks there are.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from scaledl.distributed.status import FATAL, RankStatus, read_status
from scaledl.run.files import atomic_write, storage_errors, temporary_beside

_GUESSES = {
    "SIGKILL": ", perhaps by the out-of-memory killer",
    "SIGSEGV": ", a crash in native code",
    "SIGBUS": ", perhaps for want of shared memory or disk space",
    "SIGABRT": ", an abort in native code, which says above why",
    "SIGXCPU": ", the limit of CPU time",
}
_WORDS = {"refused": "refused to go on", "failed": "failed", "preempted": "was preempted", "interrupted": "was stopped"}
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def who(status: RankStatus) -> str:
    """
    >>> who(RankStatus("x", "running", rank=1, host="n2", pid=123))
    'rank 1 on n2 (process 123)'
    """
    return f"rank {status.rank} on {status.host} (process {status.pid})"


def describe(status: RankStatus) -> str:
    """What happened to a rank, for people.

    >>> describe(RankStatus("x", "killed", rank=1, host="n2", pid=123, signal="SIGKILL", exit=137))
    'rank 1 on n2 (process 123) was killed by SIGKILL (signal 9), perhaps by the out-of-memory killer'
    >>> describe(RankStatus("x", "failed", host="n1", pid=7, exit=1, message="no space left"))
    'rank 0 on n1 (process 7) failed (exit code 1): no space left'
    """
    if status.status == "killed":
        number = f" (signal {status.exit - 128})" if status.exit and status.signal.startswith("SIG") else ""
        return f"{who(status)} was killed by {status.signal}{number}{_GUESSES.get(status.signal, '')}"
    if status.status == "hung":
        return f"{who(status)} hangs: {status.message}"
    code = "" if status.exit is None else f" (exit code {status.exit})"
    message = f": {status.message}" if status.message else ""
    return f"{who(status)} {_WORDS.get(status.status, status.status)}{code}{message}"


def cause_path(folder: Path, launch: str) -> Path:
    return folder / f"cause-{re.sub('[^A-Za-z0-9._-]', '_', launch)[:100]}.status"


def read_cause(folder: Path, launch: str, attempt: int = 0) -> RankStatus | None:
    """The cause that some guardian of this launch has published in the folder, in this attempt at the run or later:
    there are launchers that call every start the same."""
    with suppress(OSError):  # opening the folder makes a network filesystem forget that the file was not there
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
    cause = read_status(cause_path(folder, launch))
    return cause if cause is not None and cause.launch == launch and cause.attempt >= attempt else None


def forget_causes(folder: Path, launch: str, attempt: int = 0) -> None:
    """Remove those of other launches, and of earlier attempts."""
    with suppress(OSError):
        for path in folder.glob("cause-*.status"):
            if path != cause_path(folder, launch) or read_cause(folder, launch, attempt) is None:
                path.unlink(missing_ok=True)


def publish_cause(folder: Path, cause: RankStatus, attempt: int = 0) -> RankStatus:
    """Publish it if it is the first of its launch and attempt; returns the one that stands.

    One that ends all ranks replaces one that only asks them to leave. Raises ScaledlError when storage refuses.
    """
    path = cause_path(folder, cause.launch)
    own = replace(cause, attempt=attempt or cause.attempt)
    if _create(path, own.text()):
        return cause
    standing = read_cause(folder, cause.launch, own.attempt)
    if standing is not None and (standing.status in FATAL or cause.status not in FATAL):
        return standing
    atomic_write(path, own.text(), "cause")
    return cause


def _create(path: Path, text: str) -> bool:
    """Make the file, with its content, in one step; False when there is one."""
    temporary = temporary_beside(path)
    with storage_errors(path, "cause"):
        try:
            temporary.write_text(text, encoding="utf-8")
            return _link(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _link(temporary: Path, path: Path) -> bool:
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if path.exists():
            return False
        temporary.replace(path)
    return True
