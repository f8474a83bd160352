"""Files of published data sets: found, or fetched once and checked against their SHA-256."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scaledl.config.schema import DataConfig
from scaledl.console import get_console
from scaledl.errors import UsageError
from scaledl.run.files import atomic_file, sha256_file

_TIMEOUT_SECONDS = 30.0
_BLOCK = 1 << 20


@dataclass(frozen=True)
class PublishedFile:
    """One file of a set. `urls` are mirrors of each other; `size`: bytes that it has at most."""

    name: str
    sha256: str
    urls: Sequence[str]
    size: int


def cache_folder() -> Path:
    """Where downloads go: $XDG_CACHE_HOME/scaledl, by default ~/.cache/scaledl."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scaledl"


def find_files(config: DataConfig, name: str, files: Sequence[PublishedFile]) -> list[Path]:
    """Where the files of the set `name` are: in `data.root`, else in the cache, which is filled where that is allowed.

    Raises UsageError for files that are missing, not the published ones, or not to be had, with what to do by hand.
    """
    folder = Path(config.root).expanduser() if config.root is not None else cache_folder() / name
    missing = [file for file in files if not (folder / file.name).is_file()]
    if missing and (config.root is not None or not config.download):
        key = f"data.root: got {folder}" if config.root is not None else f"data.download: got false, and {folder}"
        raise UsageError(f"{key} lacks {', '.join(file.name for file in missing)}; fix: {_by_hand(missing, folder)}")
    for file in missing:
        with _alone(folder):
            if not (folder / file.name).is_file():
                _fetch(file, folder / file.name)
    for file in files:
        if sha256_file(folder / file.name) != file.sha256:
            raise UsageError(
                f"{folder / file.name}: not the published file (SHA-256 differs); fix: delete it and "
                f"{_by_hand([file], folder)}"
            )
    return [folder / file.name for file in files]


def _by_hand(files: Sequence[PublishedFile], folder: Path) -> str:
    return f"download {' and '.join(file.urls[0] for file in files)} into {folder}"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process of a machine downloads, the others wait and find it there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror}); set data.root or XDG_CACHE_HOME") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(file: PublishedFile, path: Path) -> None:
    problems = []
    for url in file.urls:
        try:
            with atomic_file(path, "download") as temporary:
                _copy(url, temporary, file)
        except (OSError, http.client.HTTPException, ValueError) as error:
            problems.append(f"{url}: {_words(error)}")
        else:
            return
    raise UsageError(
        f"{file.name}: the download failed ({'; '.join(problems)}); fix: try again, or {_by_hand([file], path.parent)}"
    )


def _copy(url: str, to: Path, file: PublishedFile) -> None:
    """Raises ValueError for bytes that are not the published ones, OSError for what the network refuses."""
    digest, total = hashlib.sha256(), 0
    with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer, to.open("wb") as out:  # noqa: S310 - our own
        length = int(answer.headers.get("Content-Length") or file.size)
        with get_console().progress(f"download {file.name}", max(1, length >> 20), unit="MB") as progress:
            while block := answer.read(_BLOCK):
                total += len(block)
                if total > file.size:
                    raise ValueError(f"more than the {file.size} bytes that were published")
                digest.update(block)
                out.write(block)
                progress.advance(len(block) >> 20)
    if digest.hexdigest() != file.sha256:
        raise ValueError("not the published bytes (SHA-256 differs)")


def _words(error: Exception) -> str:
    if isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError):
        return str(error.reason)
    return str(error) or type(error).__name__
