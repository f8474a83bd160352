"""A prepared data set behind a URL that fsspec understands: s3://, gs://, http://, memory://, file://."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from scaledl.config.schema import DataConfig
from scaledl.data.download import cache_folder
from scaledl.data.prepare.store import DOCUMENT
from scaledl.data.stream.cache import Cache
from scaledl.errors import ScaledlError, UsageError, require_extra

DOCUMENT_BYTES = 64 << 20
_BLOCK = 4 << 20
_WAITS = (0.5, 2.0)  # seconds before the second and the third attempt
_CONNECT, _SILENT = 10, 30  # seconds that a server may take to answer, and to send more
_S3, _BUCKETS = ("s3", "s3a"), ("s3://", "s3a://", "gs://", "gcs://")
_PACKAGES = {**dict.fromkeys(_S3, "s3fs"), **dict.fromkeys(("gs", "gcs"), "gcsfs"), "abfs": "adlfs", "az": "adlfs"}
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError")
_CREDENTIALS = (
    "fix: give credentials in the environment (of s3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; of "
    "gs GOOGLE_APPLICATION_CREDENTIALS)"
)
T = TypeVar("T")


def is_url(root: str) -> bool:
    return "://" in root


def cache_of(config: DataConfig) -> Path:
    """The folder of this machine for what is fetched or found out about streams."""
    return Path(config.stream.cache).expanduser() if config.stream.cache else cache_folder() / "stream"


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
        self._cache = Cache(cache_of(config), int(config.stream.cache_gb * 1e9))

    def _open(self, name: str) -> IO[bytes]:
        if self._process != os.getpid():  # filesystems of fsspec do not survive a fork
            (self._files, self._path), self._process = _filesystem(self.url), os.getpid()
        file: IO[bytes] = self._files.open(f"{self._path}/{name}", "rb", block_size=_BLOCK)
        return file

    def read(self, name: str, most: int) -> bytes:
        """A small file's bytes, of which there may be `most`; not kept. Raises UsageError."""
        found = _tried(lambda: self._beginning(name, most + 1))
        if len(found) > most:
            raise UsageError(f"{self.url}/{name}: larger than {most} bytes, which it should not be")
        return found

    def open(self, name: str, size: int, sha256: str) -> tuple[Path, IO[bytes]]:
        """The file on this machine, and what keeps it there while it is used.

        Raises UsageError for a file that is missing or not the one that the hash says, ScaledlError where it cannot be
        fetched after three attempts, or not be kept.
        """
        return self._cache.open(sha256, size, lambda file: _tried(lambda: self._copy(name, size, sha256, file)))

    def _beginning(self, name: str, size: int) -> bytes:
        with self._errors(name), self._open(name) as file:
            return file.read(size)

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
            raise UsageError(self._missing(name)) from error
        except PermissionError as error:
            raise UsageError(f"{self.url}/{name}: access is denied ({_words(error)}); {_CREDENTIALS}") from error
        except Exception as error:
            if type(error).__name__ in _NO_CREDENTIALS:
                raise UsageError(f"{self.url}/{name}: no credentials ({_words(error)}); {_CREDENTIALS}") from error
            late = _late(error)
            what = "cannot be fetched" if late is None else "no answer in time"
            raise _Unfetched(f"{self.url}/{name}: {what} ({_words(late or error)})") from error

    def _missing(self, name: str) -> str:
        bucket = self._path.strip("/").partition("/")[0]
        if self.url.startswith(_BUCKETS) and not self._may_be(bucket):
            return f"data.source: got {self.url}, and there is no bucket {bucket!r}; fix: correct its name"
        if name == DOCUMENT:
            return (
                f"{self.url}/{name}: missing, so there is no prepared data set; fix: correct the URL, or copy it there"
            )
        return f"{self.url}/{name}: missing; fix: copy the data set there again"

    def _may_be(self, bucket: str) -> bool:
        try:
            return bool(self._files.exists(bucket))
        except Exception:  # who may read a set need not be allowed to list its bucket
            return True


def _tried(fetch_fn: Callable[[], T]) -> T:
    """Three attempts, but for what will not change."""
    for wait in _WAITS:
        try:
            return fetch_fn()
        except _Unfetched:
            time.sleep(wait)
    try:
        return fetch_fn()
    except _Unfetched as error:
        raise ScaledlError(f"{error}, {len(_WAITS) + 1} times; the last checkpoint of a run remains") from error


class _Unfetched(ScaledlError):
    """The network, or what lies behind it, refused."""


def _filesystem(url: str) -> tuple[Any, str]:
    require_extra("fsspec", "stream")
    from fsspec.core import url_to_fs

    if "::" in url:
        raise UsageError(f"data.source: got {url!r}; allowed: a URL of one protocol, without ::")
    protocol, _, rest = url.partition("://")
    user, at, _ = rest.partition("/")[0].rpartition("@")
    if at and ":" in user:
        raise UsageError(
            f"data.source: got a URL of {protocol} with a password, which a run would keep; allowed: one without; "
            f"{_CREDENTIALS}"
        )
    try:
        files, path = url_to_fs(url, **_patience(protocol))
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        fix = f"; fix: pip install {package}" if package else ""
        raise UsageError(f"data.source: {url}: {_words(error)}{fix}") from error
    except ValueError as error:
        raise UsageError(f"data.source: {url}: {_words(error)}") from error
    except Exception as error:
        raise UsageError(f"data.source: {url} cannot be opened ({_words(error)})") from error
    if protocol in _S3:
        files.retries = 1  # each attempt is one: `_tried` counts them
    return files, str(path).rstrip("/")


def _patience(protocol: str) -> dict[str, Any]:
    """How long a server may be silent, unless fsspec's own configuration (FSSPEC_S3_…) says so."""
    from fsspec.config import conf

    if protocol in _S3 and "config_kwargs" not in conf.get("s3", {}):
        once = {"total_max_attempts": 1}
        return {"config_kwargs": {"connect_timeout": _CONNECT, "read_timeout": _SILENT, "retries": once}}
    if protocol in ("http", "https") and "client_kwargs" not in conf.get(protocol, {}):
        from aiohttp import ClientTimeout

        return {"client_kwargs": {"timeout": ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=_SILENT)}}
    return {}


def _late(error: BaseException | None) -> BaseException | None:
    """What says that time was up, among what led to an error: s3fs fails over some of these itself."""
    while error is not None and "Timeout" not in type(error).__name__:
        error = error.__cause__ or error.__context__
    return error


def _words(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
