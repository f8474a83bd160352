"""The files that a manifest vouches for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from scaledl.errors import UsageError
from scaledl.run.files import sha256_file


def is_below(name: str, prefix: str) -> bool:
    """Whether a recorded file is `prefix` or inside it.

    >>> is_below("model/a", "model"), is_below("models", "model"), is_below("x", "")
    (True, False, True)
    """
    prefix = prefix.strip("/")
    return not prefix or name == prefix or name.startswith(f"{prefix}/")


def hash_files(directory: Path, names: Iterable[str]) -> dict[str, str]:
    """Relative path -> SHA-256 of these files, and of every file of these folders (no links, nothing temporary).

    Raises UsageError when one does not exist or lies outside `directory`.
    """
    files = [file for name in names for file in _files_of(directory, name)]
    return {file.relative_to(directory).as_posix(): sha256_file(file) for file in files}


def verify(directory: Path, recorded: dict[str, str]) -> None:
    """Raise UsageError naming the first file that is missing or whose hash differs."""
    for name, sha256 in recorded.items():
        path = directory / name
        if not path.is_file():
            raise UsageError(f"{path} is missing, though the run's manifest records it")
        if sha256_file(path) != sha256:
            raise UsageError(f"{path} is damaged or was changed: its SHA-256 is not the recorded {sha256[:12]}…")


def _files_of(directory: Path, name: str) -> list[Path]:
    pure = PurePosixPath(name)
    path = directory / pure
    if pure.is_absolute() or ".." in pure.parts or not path.exists():
        raise UsageError(f"{name!r} is not a file or folder of the run {directory}")
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return [file for file in files if file.is_file() and not file.is_symlink() and file.suffix != ".tmp"]
