"""collect -> clean -> split -> save: a source becomes a folder of arrays that training maps into memory."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from scaledl.config.schema import PrepareConfig
from scaledl.console import get_console
from scaledl.data.prepare.chunks import PLAN
from scaledl.data.prepare.collect import collect, is_function, kind_of, unused_keys
from scaledl.data.prepare.image_set import make_images
from scaledl.data.prepare.items import Collected
from scaledl.data.prepare.row_set import make_rows
from scaledl.data.prepare.store import DOCUMENT, STAMP, WORK, finish, missing_files, read_document
from scaledl.errors import ScaledlError, UsageError
from scaledl.run.files import atomic_write, remove_stale, storage_errors


def prepare(source: Path, out: Path, config: PrepareConfig, *, force: bool = False) -> dict[str, Any]:
    """Make the data set and return its document. The source is only read; an interrupted call goes on when repeated.

    Raises:
        UsageError: the source cannot be used, `out` holds something else, or too much had to be dropped.
    """
    _check_names(source, out)
    _check_out(source, out)
    collected = collect(source, kind_of(source, config), config)
    plan = _plan(source, collected, config)
    if _is_done(out, plan, collected.stamp, force=force):
        get_console().info(f"{out} is this data set already; nothing to do")
        return read_document(out)
    with _alone(out), _saying_what_stays(out):
        make = make_images if collected.modality == "image" else make_rows
        document = make(out, collected, plan, config)
        atomic_write(out / STAMP, collected.stamp + "\n")
        whole = finish(out, document, document.pop("rows"))
        shutil.rmtree(out / WORK, ignore_errors=True)
    return whole


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """No other process prepares into this folder meanwhile; the lock goes with the process.

    Nothing is left of folders that were made for it and stayed empty.
    """
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    handle = _open_folder(out)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_stale(out)
        yield
    except BlockingIOError as error:
        raise UsageError(
            f"--out: another process prepares a data set in {out}; wait for it, or give another folder"
        ) from error
    finally:
        os.close(handle)
        with suppress(OSError):
            for folder in new:
                folder.rmdir()


@contextmanager
def _saying_what_stays(out: Path) -> Iterator[None]:
    """A disk that refuses leaves what was made so far: the message says where, and what becomes of it."""
    try:
        yield
    except ScaledlError as error:
        if type(error) is not ScaledlError or not isinstance(error.__cause__, OSError):
            raise
        # The folder of a set that is being made anew holds that set until its successor is known.
        folder = out / WORK if (out / DOCUMENT).exists() else out
        size = sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
        if not size:
            raise
        then = "goes on from there" if any((out / WORK).glob("*.npz")) else "begins anew"
        reason = str(error).removesuffix("; nothing was left behind")
        raise ScaledlError(
            f"{reason}; what was made so far, {size / 1e6:.3g} MB, is kept in {folder}: the same command {then}, and "
            f"removing that folder gives the space back"
        ) from error


def _open_folder(out: Path) -> int:
    try:
        with storage_errors(out, "data set"):
            out.mkdir(parents=True, exist_ok=True)
        return os.open(out, os.O_RDONLY)
    except ScaledlError as error:
        cause = error.__cause__
        if isinstance(cause, NotADirectoryError | FileExistsError):
            raise UsageError(
                f"--out: {out} cannot be made: {cause.strerror}; allowed: a folder below folders"
            ) from error
        raise


def _check_names(*paths: Path) -> None:
    for path in paths:
        try:
            path.exists()
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{str(path)[:100]!r}: no usable path ({getattr(error, 'strerror', None) or error})"
            ) from error


def _check_out(source: Path, out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(
            f"--out: got {out}, which is a file; allowed: a folder that is new, empty, or a prepared data set"
        )
    inside = not is_function(source) and (
        out.resolve().is_relative_to(source.resolve()) or source.resolve().is_relative_to(out.resolve())
    )
    if inside:
        raise UsageError(f"--out: got {out}, which lies in the source or around it; allowed: a folder elsewhere")
    strange = _strange(out) if out.is_dir() else []
    if strange:
        raise UsageError(f"--out: got {out}, which holds other files ({', '.join(strange[:3])}); allowed: a new folder")


def _strange(out: Path) -> list[str]:
    """What lies there, unless a data set that is ours shows, or the beginning of one."""
    names = sorted(path.name for path in out.iterdir())
    work = out / WORK
    begun = work.is_dir() and ((work / PLAN).exists() or all(map(_is_of_plan, work.iterdir())))
    ours = (out / DOCUMENT).exists() and (out / STAMP).exists()
    return [] if begun or ours else names


def _is_of_plan(path: Path) -> bool:
    """Whether a file was to become a plan, by a process that was killed meanwhile."""
    return path.name.startswith(f".{PLAN}.")


def _plan(source: Path, collected: Collected, config: PrepareConfig) -> dict[str, Any]:
    """All that the bytes of the data set follow from; nothing of when and where it is made."""
    versions = {"numpy": np.__version__}
    if collected.modality == "image":
        import PIL

        versions = {"pillow": PIL.__version__, **versions}
    return {
        "source": str(source) if is_function(source) else source.resolve().name,
        "kind": collected.kind,
        "settings": config.model_dump(mode="json", exclude=unused_keys(collected) | _not_said(collected, config)),
        "versions": versions,
    }


def _not_said(collected: Collected, config: PrepareConfig) -> set[str]:
    """Keys that a set made before there were such does not have: without a value they say nothing."""
    default, keys = PrepareConfig(), ["target", "targets", "labels_separator", "unlabeled", "min_per_class"]
    if collected.modality != "image":
        keys.append("shard_mb")
    return {key for key in keys if getattr(config, key) == getattr(default, key)}


def _is_done(out: Path, plan: dict[str, Any], stamp: str, *, force: bool) -> bool:
    """Whether `out` is what would be made. `stamp`: of the source's files, with their times."""
    if force or not (out / DOCUMENT).exists():
        return False
    known, made_of = read_document(out).get("plan", {}), out / STAMP
    changed = [name for name in plan if known.get(name) != plan[name]]
    if not made_of.exists() or made_of.read_text().strip() != stamp:
        changed.append("files of the source")
    if missing_files(out):
        changed.append("its own files")
    if not changed:
        return True
    raise UsageError(
        f"--out: {out} is a data set that was made otherwise ({', '.join(changed)} differ); "
        "add --force to make it anew, or choose another folder"
    )
