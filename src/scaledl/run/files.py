"""Files that are either the old version or the new one, whatever happens in between."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from scaledl.errors import ScaledlError
from scaledl.run.process import Process

STALE_ELSEWHERE_SECONDS = 3600.0  # a temporary file of another machine: its process cannot be asked
_ALMOST_FULL_BYTES = 64 * 1024
_REASONS = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the filesystem is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "operation not permitted",
    errno.EIO: "input/output error of the disk",
    errno.EFBIG: "the file is larger than the filesystem allows",
    errno.ESTALE: "the network filesystem lost the folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder",
    errno.ELOOP: "the path goes round in symbolic links",
    errno.ENAMETOOLONG: "the name is too long",
}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TEMPORARY = re.compile(r"\..*\.([0-9a-f]{8})-(\d+)-(\d+)\.[0-9a-f]{8}\.tmp", re.DOTALL)


Rest = Callable[[float], None]


def no_rest(seconds: float) -> None:
    """For work that others do not wait beside. A `Rest` is told the seconds that a part of the work took."""


def is_sha256(value: object) -> bool:
    """Whether it is a SHA-256 in hexadecimal, and so can be no path either."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def sha256_file(path: str | Path, rest_fn: Rest = no_rest) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal. `rest_fn` is called after every MB with the seconds it took."""
    digest, buffer = hashlib.sha256(), bytearray(1 << 20)
    with Path(path).open("rb", buffering=0) as file:
        began = time.monotonic()
        while size := file.readinto(buffer):
            digest.update(memoryview(buffer)[:size])
            rest_fn(time.monotonic() - began)
            began = time.monotonic()
    return digest.hexdigest()


@contextmanager
def atomic_file(path: str | Path, what: str = "file") -> Iterator[Path]:
    """Yield a temporary path beside `path`; what was written there replaces `path` in one step, synced to the disk.

    The temporary file is in the same directory, so a small or read-only TMPDIR does not matter. On any error it is
    removed and `path` stays as it was. `what` names the thing in messages ("checkpoint").
    Raises ScaledlError when the storage is full, read-only, forbidden or broken.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    except BaseException as error:
        problem = storage_problem(error, path.parent)  # before the removal: a full disk must still look full
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if problem is None:
            raise
        raise ScaledlError(f"cannot write the {what} {path}: {problem}; {_what_is_left(path)}") from error
    sync_directory(path.parent)


def atomic_write(path: str | Path, data: bytes | str, what: str = "file") -> None:
    """Replace a file's content in one step (text as UTF-8). Raises ScaledlError as `atomic_file`."""
    with atomic_file(path, what) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def atomic_json(path: str | Path, value: Any, what: str = "file") -> None:
    """Write JSON in one step. Infinities and NaN, which JSON does not have, become null."""
    text = json.dumps(_without_nonfinite(value), indent=2, ensure_ascii=False, allow_nan=False)
    atomic_write(path, text + "\n", what)


@contextmanager
def storage_errors(path: Path, what: str) -> Iterator[None]:
    """Turn what storage refuses inside the block into one ScaledlError; for files that grow, not for replaced ones."""
    try:
        yield
    except Exception as error:
        problem = storage_problem(error, path.parent)
        if problem is None:
            raise
        raise ScaledlError(f"cannot write the {what} {path}: {problem}") from error


def storage_problem(error: BaseException, directory: Path) -> str | None:
    """Why storage refused, with the free space, or None when `error` is about something else.

    Writers in C++ and Rust hide the errno in a RuntimeError or a text, so the filesystem itself is asked as well.
    """
    if isinstance(error, OSError):
        reason = _REASONS.get(error.errno or 0)
    elif isinstance(error, ScaledlError) or not isinstance(error, Exception):
        return None
    else:
        reason = _hidden_reason(error, directory)
    return f"{reason} ({_space(directory)})" if reason else None


def temporary_beside(path: Path) -> Path:
    """A new temporary name in the same directory that says which process made it."""
    process = Process.current()
    owner = f"{_machine(process)}-{process.pid}-{process.pid_start or 0}"
    return path.with_name(f".{path.name[:40]}.{owner}.{secrets.token_hex(4)}.tmp")


def remove_stale(directory: Path, *, recursive: bool = True) -> list[Path]:
    """Remove temporary files and folders in (or below) `directory` whose process is gone; return them."""
    found = directory.rglob(".*.tmp") if recursive else directory.glob(".*.tmp")
    stale = [path for path in found if _is_stale(path)]
    for path in stale:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink(missing_ok=True)
    return stale


def _is_stale(path: Path) -> bool:
    match = _TEMPORARY.fullmatch(path.name)
    if match is None:
        return False
    machine, pid, start = match[1], int(match[2]), int(match[3])
    here = Process.current()
    if machine != _machine(here):
        with suppress(OSError):
            return time.time() - path.lstat().st_mtime > STALE_ELSEWHERE_SECONDS
        return False
    return not Process(here.host, pid, start or None, here.boot_id).alive()


def _machine(process: Process) -> str:
    return hashlib.sha256(f"{process.host} {process.boot_id}".encode()).hexdigest()[:8]


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_directory(directory: Path) -> None:
    """Make a rename survive a power cut."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network filesystems cannot sync a folder
            raise ScaledlError(f"{directory} could not be synced to the disk: {error.strerror}") from error


def _hidden_reason(error: Exception, directory: Path) -> str | None:
    text = str(error)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        if os.strerror(number) in text or f"os error {number}" in text:
            return _REASONS[number]
    if not isinstance(error, RuntimeError):
        return None
    with suppress(OSError):
        status = os.statvfs(_nearest(directory))
        if status.f_flag & os.ST_RDONLY:
            return _REASONS[errno.EROFS]
        if status.f_bavail * status.f_frsize < _ALMOST_FULL_BYTES:
            return _REASONS[errno.ENOSPC]
    return None


def _nearest(directory: Path) -> Path:
    return next((folder for folder in (directory, *directory.parents) if folder.is_dir()), Path())


def _space(directory: Path) -> str:
    try:
        usage = shutil.disk_usage(_nearest(directory))
    except OSError:
        return "free space unknown"
    return f"{_size(usage.free)} free of {_size(usage.total)}"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _what_is_left(path: Path) -> str:
    try:
        return "the previous version is intact" if path.is_file() else "nothing was left behind"
    except OSError:
        return "nothing was left behind"


def _without_nonfinite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nonfinite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nonfinite(item) for item in value]
    return value
