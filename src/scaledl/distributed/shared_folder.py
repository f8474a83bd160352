"""Whether all ranks see one folder: rank 0 leaves a hidden file there, and the others look for it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from scaledl.distributed.exchange import Json, pauses
from scaledl.distributed.missing import ranks
from scaledl.run.files import storage_problem

PATIENCE_SECONDS = 5.0  # of a network filesystem, with what another node has just written


@contextmanager
def left_probe(rank: int, folder: Path) -> Iterator[Json]:
    """Rank 0: the file, in the folder or its nearest parent that exists, as others may find it while the block runs.

    {} on other ranks; {"problem": why} where nothing can be written.
    """
    if rank:
        yield {}
        return
    folders = _upwards(folder)
    level = next(index for index, folder in enumerate(folders) if folder.is_dir())
    path = folders[level] / f".scaledl-probe-{secrets.token_hex(8)}"
    try:
        path.touch(exist_ok=False)
    except OSError as error:
        reason = storage_problem(error, folders[level]) or error.strerror
        yield {"problem": f"cannot write into {folders[level]}: {reason}"}
        return
    try:
        yield {"name": path.name, "level": level}
    finally:
        with suppress(OSError):
            path.unlink()


def look_for(folder: Path, probe: Json) -> dict[str, Any]:
    """Whether the probe is there: in the same place as rank 0's, counted upwards from the folder."""
    folders = _upwards(folder)
    place = folders[min(probe["level"], len(folders) - 1)]
    path = place / probe["name"]
    found = _is_file(path) or any(_is_file(path) for _ in pauses(time.monotonic() + PATIENCE_SECONDS))
    return {"found": found, "folder": str(place)}


def unseen(found: Mapping[int, Json]) -> str | None:
    """From what each rank found, with its host: who did not see it."""
    blind = [rank for rank in sorted(found) if not found[rank]["found"]]
    if not blind:
        return None
    hosts = ", ".join(dict.fromkeys(found[rank]["host"] for rank in blind))
    return (
        f"{ranks(blind)} ({hosts}) cannot see in {found[blind[0]]['folder']} what rank 0 ({found[0]['host']}) wrote "
        f"into {found[0]['folder']}"
    )


def _upwards(folder: Path) -> list[Path]:
    path = folder.absolute()
    return [path, *path.parents]


def _is_file(path: Path) -> bool:
    with suppress(OSError):
        return path.is_file()
    return False
