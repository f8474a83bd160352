"""A prepared data set behind a URL that fsspec understands: s3://, gs://, http://, memory://, file://."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from scaledl.config.schema import DataConfig
from scaledl.data.download import cache_folder
from scaledl.data.stream.cache import Cache
from scaledl.errors import ScaledlError, UsageError, require_extra

DOCUMENT_BYTES = 64 << 20
_BLOCK = 4 << 20
_WAITS = (0.5, 2.0)  # seconds before the second and the third attempt


def is_url(root: str) -> bool:
    return "://" in root


class RemoteFolder:
    """What lies there, through the cache of this machine."""

    def __init__(self, config: DataConfig) -> None:
        """Raises UsageError for a URL that cannot be used here."""
        assert config.root is not None
        if not config.download:
            raise UsageError(f"data.download: got false, and data.source is {config.root}; allowed: true, or a folder")
        self.url = config.root.rstrip("/")
        self._files, self._path = _filesystem(self.url)
        self._process = os.getpid()
        folder = Path(config.stream.cache).expanduser() if config.stream.cache else cache_folder() / "stream"
        self._cache = Cache(folder, int(config.stream.cache_gb * 1e9))

    def _open(self, name: str) -> IO[bytes]:
        if self._process != os.getpid():  # filesystems of fsspec do not survive a fork
            (self._files, self._path), self._process = _filesystem(self.url), os.getpid()
        file: IO[bytes] = self._files.open(f"{self._path}/{name}", "rb", block_size=_BLOCK)
        return file

    def read(self, name: str, most: int) -> bytes:
        """A small file's bytes, of which there may be `most`; not kept. Raises UsageError."""
        with self._errors(name), self._open(name) as file:
            found = file.read(most + 1)
        if len(found) > most:
            raise UsageError(f"{self.url}/{name}: larger than {most} bytes, which it should not be")
        return found

    def open(self, name: str, size: int, sha256: str) -> tuple[Path, IO[bytes]]:
        """The file on this machine, and what keeps it there while it is used.

        Raises UsageError for a file that is missing or not the one that the hash says, ScaledlError where it cannot be
        fetched after three attempts, or not be kept.
        """
        return self._cache.open(sha256, size, lambda file: self._fetch(name, size, sha256, file))

    def _fetch(self, name: str, size: int, sha256: str, to: IO[bytes]) -> None:
        for wait in (*_WAITS, None):
            try:
                self._copy(name, size, sha256, to)
                return
            except _Unfetched as error:
                if wait is None:
                    raise ScaledlError(f"{error}; the last checkpoint of a run remains") from error
                time.sleep(wait)

    def _copy(self, name: str, size: int, sha256: str, to: IO[bytes]) -> None:
        to.seek(0)
        digest, total = hashlib.sha256(), 0
        for block in self._blocks(name):
            total += len(block)
            if total > size:
                break
            digest.update(block)
            to.write(block)
        to.flush()
        if total != size or digest.hexdigest() != sha256:
            what = "SHA-256 differs" if total == size else f"{'cut short' if total < size else 'too long'}"
            raise UsageError(
                f"{self.url}/{name}: not the file that the data set was made with ({what}: {total} of {size} bytes "
                "read); fix: copy the data set there again"
            )

    def _blocks(self, name: str) -> Iterator[bytes]:
        with self._errors(name):
            file = self._open(name)
        with file:
            while True:
                with self._errors(name):
                    block = file.read(_BLOCK)
                if not block:
                    return
                yield block

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        """What a filesystem raises, of whatever kind, as ours."""
        try:
            yield
        except FileNotFoundError as error:
            raise UsageError(f"{self.url}/{name}: missing; fix: copy the data set there again") from error
        except Exception as error:
            raise _Unfetched(f"{self.url}/{name}: cannot be fetched ({_words(error)})") from error


class _Unfetched(ScaledlError):
    """The network, or what lies behind it, refused."""


def _filesystem(url: str) -> tuple[Any, str]:
    require_extra("fsspec", "stream")
    from fsspec.core import url_to_fs

    if "::" in url:
        raise UsageError(f"data.source: got {url!r}; allowed: a URL of one protocol, without ::")
    try:
        files, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UsageError(f"data.source: {url}: {_words(error)}") from error
    except Exception as error:
        raise UsageError(f"data.source: {url} cannot be opened ({_words(error)})") from error
    return files, str(path).rstrip("/")


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
