"""The manifest of a run: what it is, where it comes from, how far it came. Read strictly, written in one step."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from scaledl.errors import UsageError
from scaledl.run.files import atomic_json

SCHEMA_VERSION = 1
KINDS = ("train", "compress", "stage", "tune", "trial")
STATUSES = ("running", "preempted", "failed", "complete")
FILE_NAME = "manifest.json"


@dataclass(frozen=True)
class Parent:
    """A run that this one comes from; `sha256` is over its model files, so it is known wherever it moves."""

    name: str
    id: str
    path: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Times are ISO 8601 in UTC; `files` maps paths relative to the run to their SHA-256."""

    schema_version: int
    name: str
    id: str
    kind: str
    status: str
    created: str
    updated: str
    attempts: int
    config: dict[str, Any]
    parents: tuple[Parent, ...]
    data_fingerprint: str | None
    seed: int
    versions: dict[str, str]
    git_revision: str | None
    hardware: dict[str, Any]
    world_size: int
    wall_seconds: float
    metrics: dict[str, float]
    files: dict[str, str]
    host: str
    pid: int
    pid_start: int | None
    boot_id: str | None
    error: str | None


_TEXT, _MAYBE_TEXT, _MAYBE_INT = (str,), (str, type(None)), (int, type(None))
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("name", "id", "kind", "status", "created", "updated", "host"), _TEXT),
    **dict.fromkeys(("data_fingerprint", "git_revision", "boot_id", "error"), _MAYBE_TEXT),
    **dict.fromkeys(("config", "versions", "hardware", "metrics", "files"), (dict,)),
    **dict.fromkeys(("schema_version", "attempts", "seed", "world_size", "pid"), (int,)),
    "parents": (list,),
    "pid_start": _MAYBE_INT,
    "wall_seconds": (int, float),
}


def now() -> str:
    """This moment, ISO 8601 in UTC, to the microsecond."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Replace the manifest in one step. Raises ScaledlError when the storage refuses."""
    value = asdict(manifest)
    value["metrics"] = {key: _encode_number(number) for key, number in manifest.metrics.items()}
    atomic_json(directory / FILE_NAME, value, what="manifest")


def read_manifest(directory: Path) -> Manifest:
    """Read and check a manifest. Raises UsageError when there is none, or it is damaged or of another version."""
    path = directory / FILE_NAME
    value = _read_json(path)
    version = value.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise UsageError(
            f"{path} has schema version {version!r}, this scaledl reads {SCHEMA_VERSION}; "
            "use the version of scaledl that wrote the run"
        )
    try:
        return _parse(value)
    except (TypeError, ValueError, KeyError) as error:
        raise UsageError(f"{path} is damaged: {error}") from error


def content_hash(manifest: Manifest) -> str | None:
    """One SHA-256 over the recorded model files (names and hashes), or None when no model is recorded."""
    lines = [f"{sha}  {name}\n" for name, sha in sorted(manifest.files.items()) if name.startswith("model/")]
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is not a run: there is no such folder")
    if not path.is_file():
        raise UsageError(f"{path.parent} is not a run: it has no {path.name}")
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is damaged: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path} is damaged: a JSON object was expected")
    return value


def _parse(value: dict[str, Any]) -> Manifest:
    names = {field.name for field in fields(Manifest)}
    for name in sorted(names ^ value.keys()):
        raise ValueError(f"key {name!r} is {'missing' if name in names else 'unknown'}")
    for name, types in _TYPES.items():
        if not isinstance(value[name], types) or isinstance(value[name], bool):
            raise ValueError(f"key {name!r} has a value of the wrong type: {value[name]!r:.80}")
    _check_choice("kind", value["kind"], KINDS)
    _check_choice("status", value["status"], STATUSES)
    _check_files(value["files"])
    datetime.fromisoformat(value["created"])
    parents = tuple(Parent(**parent) for parent in value["parents"])
    metrics = {key: float(number) for key, number in value["metrics"].items()}
    return Manifest(**{**value, "parents": parents, "metrics": metrics, "wall_seconds": float(value["wall_seconds"])})


def _check_choice(key: str, got: str, allowed: tuple[str, ...]) -> None:
    if got not in allowed:
        raise ValueError(f"{key} is {got!r}, allowed are {', '.join(allowed)}")


def _check_files(files: dict[str, Any]) -> None:
    for name, sha in files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not isinstance(sha, str):
            raise ValueError(f"recorded file {name!r} is not inside the run")


def _encode_number(number: float) -> float | str:
    """JSON has no NaN and no infinities: they are kept as text."""
    number = float(number)
    return number if math.isfinite(number) else str(number)
