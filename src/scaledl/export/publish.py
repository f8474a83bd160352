"""Export to a hidden place, verify there, and only then give the file its name."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from scaledl.config.registry import FORMATS
from scaledl.config.schema import ExportConfig, TaskConfig
from scaledl.data import DataModule
from scaledl.distributed.preemption import stop_flag
from scaledl.errors import UsageError, VerdictError
from scaledl.export.artifact import Artifact
from scaledl.export.checks import Verification
from scaledl.export.torchscript import CLASSIFICATION
from scaledl.export.verify import TIMEOUT_SECONDS, verify
from scaledl.models.structure import Model
from scaledl.run import Run, atomic_write, remove_stale
from scaledl.run.files import temporary_beside
from scaledl.runtime.artifact import sidecar_path


def export_and_verify(
    model: Model,
    data: DataModule,
    path: Path,
    *,
    config: ExportConfig,
    source: dict[str, Any],
    task: TaskConfig = CLASSIFICATION,
    run: Run | None = None,
    timeout: float = TIMEOUT_SECONDS,
) -> tuple[Artifact, Verification]:
    """Export `model` in the config's format; the file appears at `path` only once it is verified.

    `task` says what the outputs mean. With `run`, the hashes of the file and its sidecar go into the run's manifest
    where they lie inside the run.

    Raises:
        VerdictError: with the checks that failed; what stood at `path` before stays.
        UsageError: `path` is a folder, or the model does not fit the data.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path}: a folder; give the name of the file to write, such as {path / 'model.ts'}")
    if _is_inside(path, run) and path.parent.is_dir():
        remove_stale(path.parent)
    hidden = temporary_beside(path)
    try:
        export_fn = FORMATS.resolve(config.format)
        draft = export_fn(model, data, hidden / path.name, config=config, source=source, task=task)
        verification = verify(draft.path, model=model, data=data, config=config, timeout=timeout)
        if not verification.ok:
            raise VerdictError(
                f"the exported file failed its verification and is not published: {verification.failures}"
            )
        stop_flag.raise_if_set("the exported file was not published")
        return _publish(draft, path, run), replace(verification, path=path)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _publish(draft: Artifact, path: Path, run: Run | None) -> Artifact:
    """Should the machine stop between the two files, they do not fit together, and the file is refused."""
    atomic_write(path, draft.path.read_bytes(), "exported file")
    atomic_write(sidecar_path(path), sidecar_path(draft.path).read_bytes(), "sidecar")
    if run is not None and _is_inside(path, run):
        folder = path.absolute().parent.relative_to(run.path.absolute())
        run.record(*((folder / name).as_posix() for name in (path.name, sidecar_path(path).name)))
    return replace(draft, path=path)


def _is_inside(path: Path, run: Run | None) -> bool:
    return run is not None and path.absolute().is_relative_to(run.path.absolute())
