"""Files of remote data sets, kept on this machine under their SHA-256 for all processes, within a limit."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import IO

from scaledl.errors import ScaledlError, UsageError
from scaledl.run.files import atomic_file, is_sha256, remove_stale, sha256_file, storage_errors

FetchFn = Callable[[IO[bytes]], None]  # writes the whole file and has checked its SHA-256, or raises
_LOCKS = ".locks"
_ATTEMPTS = 10
_BEING_FETCHED = re.compile(r"\.[0-9a-f]{40}\.[0-9a-f]{8}-\d+-\d+\.[0-9a-f]{8}\.tmp")
_ANOTHER = "give a folder of your own, on another disk, in data.stream.cache"
FEWER = "raise `ulimit -n`, or lower data.stream.window_shards, data.stream.prefetch_shards or data.num_workers"


class Cache:
    """A folder that holds at most `limit` bytes. What is used longest ago goes first, and never what is in use.

    A file is in use as long as somebody holds it open with a shared lock; such locks go with their process. Beside the
    locks lies, of each file, what it was like when its SHA-256 was last checked; the time of that note is the file's
    last use. Other files in the folder are neither counted nor touched.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        with storage_errors(folder, "cache"):
            (folder / _LOCKS).mkdir(parents=True, exist_ok=True)
        remove_stale(folder, recursive=False)

    def open(self, sha256: str, size: int, fetch_fn: FetchFn) -> tuple[Path, IO[bytes]]:
        """The file and what keeps it there, fetched first if it is not there; other processes wait for it meanwhile.

        Raises UsageError where the limit leaves no room, ScaledlError where the disk has none or refuses, and what
        `fetch_fn` raises.
        """
        if not is_sha256(sha256):
            raise UsageError(f"{sha256[:80]!r} is no SHA-256; fix: copy the data set again from where it was made")
        path = self._folder / sha256
        for _ in range(_ATTEMPTS):  # between fetching and holding, others may want its room
            with _errors(path), self._alone(sha256[:2]):
                held = self._held(path, size, fetched=False)
                if held is None:
                    self._fetch(path, size, fetch_fn)
                    held = self._held(path, size, fetched=True)
            if held is not None:
                return path, held
        raise UsageError(f"data.stream.cache: {path} vanishes again and again; fix: give another folder")

    def _held(self, path: Path, size: int, *, fetched: bool) -> IO[bytes] | None:
        """The file, open and locked; None where it is not there, not what it has to be, or was removed meanwhile."""
        try:
            file = path.open("rb", buffering=0)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH)
            if self._is_whole(path, os.fstat(file.fileno()), size, fetched=fetched):
                return file
        except BaseException:
            file.close()
            raise
        file.close()
        return None

    def _is_whole(self, path: Path, found: os.stat_result, size: int, *, fetched: bool) -> bool:
        """Notes the use. The bytes are read where they were not just fetched, and the note is of another file."""
        if found.st_size != size or not found.st_nlink:
            return False
        note, now = _note(path), time.time_ns()
        known = f"{found.st_size} {found.st_mtime_ns} {found.st_ino}\n"
        if fetched or not note.is_file() or note.read_bytes() != known.encode():
            if not fetched and sha256_file(path) != path.name:
                return False
            note.write_text(known)
        os.utime(note, ns=(now, now))
        return True

    def _fetch(self, path: Path, size: int, fetch_fn: FetchFn) -> None:
        try:
            with atomic_file(path, "cached file") as new, new.open("wb") as file:
                with self._alone("room"):
                    self._make_room(size)
                    _reserve(file, size)
                fetch_fn(file)
        except ScaledlError as error:
            if type(error) is ScaledlError and isinstance(error.__cause__, OSError):  # the disk's, not what was fetched
                raise ScaledlError(f"{error}; fix: make room, or name another disk in data.stream.cache") from error
            raise

    def _make_room(self, size: int) -> None:
        found = sorted(_files(self._folder))
        total = size + sum(bytes for _, bytes, _ in found)
        for _, bytes, path in found:
            if total <= self._limit:
                return
            total -= bytes if _removed(path) else 0
        if total > self._limit:
            raise UsageError(
                f"data.stream.cache_gb: got {self._limit / 1e9:g}, and files in use with the next one take "
                f"{total / 1e9:.3g}; fix: raise it, or lower data.stream.window_shards or data.stream.prefetch_shards"
            )

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        with (self._folder / _LOCKS / name).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)  # a process that was forked meanwhile has it open, too


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """What the system refuses, as one message."""
    try:
        yield
    except OSError as error:
        fix = FEWER if error.errno in (errno.EMFILE, errno.ENFILE) else _ANOTHER
        where = error.filename or path
        raise ScaledlError(f"data.stream.cache: {where}: {error.strerror or error}; fix: {fix}") from error


def _note(path: Path) -> Path:
    return path.parent / _LOCKS / f"{path.name}.checked"


def _reserve(file: IO[bytes], size: int) -> None:
    """A full disk is known now, and others see what it will take."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Time of the last use, bytes, path. What is being fetched counts, too."""
    for path in folder.iterdir():
        if not (is_sha256(path.name) or _BEING_FETCHED.fullmatch(path.name)):
            continue
        with suppress(FileNotFoundError):
            found = path.lstat()
            if S_ISREG(found.st_mode):
                yield _last_use(path, found.st_mtime), found.st_size, path


def _last_use(path: Path, otherwise: float) -> float:
    with suppress(FileNotFoundError):
        return _note(path).stat().st_mtime
    return otherwise


def _removed(path: Path) -> bool:
    """Whether it was in nobody's use, and is gone."""
    if not is_sha256(path.name):  # being fetched
        return False
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            _note(path).unlink(missing_ok=True)
    except FileNotFoundError:
        return True
    except (BlockingIOError, PermissionError):
        return False
    return True
