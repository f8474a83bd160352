"""New run directories: built under a temporary name and moved into place, so that none exists without its manifest."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from scaledl.errors import ScaledlError, UsageError
from scaledl.run import machine
from scaledl.run.files import atomic_write, remove_stale, storage_problem, temporary_beside
from scaledl.run.manifest import KINDS, SCHEMA_VERSION, Manifest, Parent, now, write_manifest
from scaledl.run.process import Process

if TYPE_CHECKING:
    from scaledl.config.schema import Config

LATEST = "latest"
CONFIG_FILE = "config.yaml"
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


def new_id() -> str:
    """The UTC second and its fraction in 1/65536: ids sort by time, and `make_directory` decides a tie."""
    moment = datetime.now(UTC)
    return f"{moment:%Y%m%d-%H%M%S}-{moment.microsecond * 65536 // 1_000_000:04x}"


def check_name(key: str, value: str) -> str:
    """Refuse what is not one plain folder name. Raises UsageError."""
    from scaledl.config.schema import NAME_PATTERN

    if not re.fullmatch(NAME_PATTERN, value) or value == LATEST:
        raise UsageError(
            f"{key}: got {value!r}; allowed are letters, digits, '.', '_' and '-', at most 100, "
            f"starting with a letter or digit, and not {LATEST!r}"
        )
    return value


def make_folder(root: Path, name: str) -> Path:
    """Create the folder of all runs of a name. Raises UsageError where it cannot be."""
    if root.absolute() == Path(root.anchor or "/"):
        raise UsageError(f"run.root: got {str(root)!r}; runs are not put into the top folder: use run.root=PATH")
    folder = root / check_name("run.name", name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_create(folder, error) from error
    remove_stale(folder, recursive=False)  # what killed creators left
    return folder


def make_directory(target: Path, config: Config, manifest: Manifest) -> bool:
    """Create a run directory whole; False when something is there already. Raises UsageError."""
    if os.path.lexists(target) and not _is_empty(target):
        return False
    temporary = temporary_beside(target)
    try:
        temporary.mkdir()
        _fill(temporary, config, manifest)
        temporary.rename(target)  # refuses a folder that is not empty: of two creators one wins
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno in _TAKEN:
            return False
        raise _cannot_create(target, error) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return True


def make_new(folder: Path, config: Config, manifest: Manifest) -> Path:
    """Create a run directory under an id that nobody has; `manifest` gets that id."""
    for _ in range(10_000):
        id = new_id()
        if make_directory(folder / id, config, replace(manifest, id=id)):
            return folder / id
        time.sleep(20e-6)  # the next 1/65536 of a second
    raise ScaledlError(f"no free run id under {folder}: the clock stands still")


def first_manifest(
    config: Config, *, name: str, id: str, kind: str, parents: Sequence[Parent], data_fingerprint: str | None = None
) -> Manifest:
    """The manifest of a run that has not begun."""
    if kind not in KINDS:
        raise UsageError(f"kind of run: got {kind!r}, allowed are {', '.join(KINDS)}")
    moment = now()
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=name,
        id=id,
        kind=kind,
        status="running",
        created=moment,
        updated=moment,
        attempts=0,
        config=config.model_dump(mode="json"),
        parents=tuple(parents),
        data_fingerprint=data_fingerprint,
        seed=config.run.seed,
        versions=machine.package_versions(),
        git_revision=machine.git_revision(),
        hardware=machine.hardware(),
        world_size=machine.world_size(),
        wall_seconds=0.0,
        metrics={},
        files={},
        **asdict(Process.current()),
        error=None,
    )


def write_config(directory: Path, config: Config) -> None:
    """Write config.yaml in one step."""
    from scaledl.config.load import dump_yaml

    atomic_write(directory / CONFIG_FILE, dump_yaml(config), what="config")


def point_latest(directory: Path) -> None:
    """Let NAME/latest point at this run, in one step."""
    link = directory.parent / LATEST
    temporary = temporary_beside(link)
    try:
        temporary.symlink_to(directory.name)
        temporary.replace(link)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):  # a filesystem without symbolic links
            raise ScaledlError(f"cannot point {link} at the run: {error.strerror}") from error


def _fill(directory: Path, config: Config, manifest: Manifest) -> None:
    write_config(directory, config)
    write_manifest(directory, manifest)


def _is_empty(path: Path) -> bool:
    try:
        return path.is_dir() and not path.is_symlink() and not any(path.iterdir())
    except OSError:
        return False


def _cannot_create(path: Path, error: OSError) -> UsageError:
    problem = storage_problem(error, path.parent) or error.strerror
    return UsageError(f"cannot create the run folder {path}: {problem}; choose another with run.root=PATH")
