"""Links among the files of a source: none may lead out of its folder, or to nothing.

A snapshot in the cache of the Hugging Face hub consists of links, `datasets--ORG--NAME/snapshots/REVISION/… ->
datasets--ORG--NAME/blobs/HASH`: from there files of the same repository's `blobs` may be linked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from scaledl.errors import UsageError

_REPOSITORIES = ("datasets--", "models--")
_FIX = "fix: put the file itself there (cp -L), or take the link away"


def check_file(path: Path, root: Path) -> None:
    """Raises UsageError for a link to nothing or out of the folder `root`, and for what is no regular file."""
    _check_target(path, root)
    if not path.is_file():
        raise UsageError(f"{path}: is no regular file; fix: take it away")


def files_below(root: Path) -> Iterator[Path]:
    """All files and links to files. Linked folders are not followed: those in `root` are met where they lie.

    Raises UsageError for a link that could stand for a folder, and leads out of `root` or to nothing; OSError for a
    folder that cannot be read.
    """
    for folder, folders, names in os.walk(root, onerror=_raise):
        for name in folders:
            if not name.startswith("."):
                _check_target(Path(folder, name), root)
        for path in (Path(folder, name) for name in names):
            if not (path.suffix or path.exists()):
                _check_target(path, root)
            yield path


def _check_target(path: Path, root: Path) -> None:
    if not path.exists():
        raise UsageError(f"{path}: is a link to nothing; {_FIX}")
    if not may_link(path.resolve(), root.resolve()):
        raise UsageError(f"{path}: is a link out of the source's folder {root}; {_FIX}")


def may_link(target: Path, root: Path) -> bool:
    """Whether a link in the folder `root` may lead to the target; both without links."""
    return target.is_relative_to(root) or (target.is_file() and target.parent == _blobs(root))


def _blobs(folder: Path) -> Path | None:
    """Where the files of a snapshot lie, of which `folder` is one, or is in one."""
    for snapshots in folder.parents:
        repository = snapshots.parent
        if snapshots.name == "snapshots" and repository.name.startswith(_REPOSITORIES):
            return repository / "blobs"
    return None


def _raise(error: OSError) -> None:
    raise error
