"""An exported file and the small file beside it that holds its hash and its verification."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaledl.run import Run, atomic_json, atomic_write
from scaledl.runtime.artifact import SCHEMA_VERSION, read_sidecar, sidecar_path


@dataclass(frozen=True)
class Artifact:
    """An exported file. `size` is in bytes; `engine` is that of the int8 kernels, None for float32."""

    path: Path
    sha256: str
    size: int
    int8: bool
    engine: str | None


def write_artifact(path: Path, data: bytes, engine: str | None, source: dict[str, Any]) -> Artifact:
    """Write the file and its sidecar, each atomically. The sidecar says nothing of a verification yet."""
    artifact = Artifact(path, hashlib.sha256(data).hexdigest(), len(data), engine is not None, engine)
    atomic_write(path, data, "exported file")
    sidecar = {
        "schema_version": SCHEMA_VERSION,
        "file": path.name,
        "sha256": artifact.sha256,
        "size": artifact.size,
        "engine": engine,
        "source": {key: source.get(key) for key in ("name", "id", "sha256")},
        "verification": None,
    }
    atomic_json(sidecar_path(path), sidecar, "sidecar")
    return artifact


def record_verification(path: Path, verification: dict[str, Any], run: Run | None = None) -> None:
    """Keep the result in the sidecar of `path`, where there is one, and its new hash in the run's manifest."""
    sidecar = read_sidecar(path)
    if sidecar is None:
        return
    atomic_json(sidecar_path(path), {**sidecar, "verification": verification}, "sidecar")
    if run is None:
        return
    target = sidecar_path(path).absolute()
    if target.is_relative_to(run.path.absolute()):
        name = target.relative_to(run.path.absolute()).as_posix()
        if name in run.manifest.files:
            run.record(name)
