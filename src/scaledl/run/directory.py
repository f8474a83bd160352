"""A run: one directory with config, manifest, checkpoints, metrics, model and exports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from scaledl.console import get_console
from scaledl.errors import Interrupted, Preempted, ScaledlError, UsageError
from scaledl.run.attempt import exclusive, liveness
from scaledl.run.create import (
    CONFIG_FILE,
    check_name,
    first_manifest,
    make_directory,
    make_folder,
    make_new,
    point_latest,
    write_config,
)
from scaledl.run.files import remove_stale
from scaledl.run.lease import Lease
from scaledl.run.manifest import Manifest, Parent, content_hash, now, read_manifest, write_manifest
from scaledl.run.process import Process
from scaledl.run.recorded import hash_files, is_below, verify

if TYPE_CHECKING:
    from scaledl.config.schema import Config

_FINAL = ("preempted", "failed", "complete")
_CHANGEABLE = {field.name for field in fields(Manifest)} - {"schema_version", "name", "id", "kind", "created"}


class Run:
    """Made by `create`, `open`, `open_or_create` or `nested`. The manifest is read from the disk at every access."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.name = manifest.name
        self.id = manifest.id
        self.kind = manifest.kind
        self._lease = Lease(path, self.label)
        self._wall_before = 0.0  # seconds of the attempts before this one

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.path.absolute() == other.path.absolute()

    def __hash__(self) -> int:
        return hash(self.path.absolute())

    # Making and opening

    @classmethod
    def create(
        cls,
        path_root: str | Path,
        name: str,
        id: str | None = None,
        *,
        kind: str = "train",
        config: Config,
        parents: Sequence[Parent] = (),
    ) -> Run:
        """Make ROOT/NAME/ID with config and manifest, and point ROOT/NAME/latest at it; without `id` a new one is made.

        Raises UsageError when the id exists, a name is not a plain one, or the folder cannot be created.
        """
        folder = make_folder(Path(path_root), name)
        manifest = first_manifest(config, name=name, id=id or "", kind=kind, parents=parents)
        if id is None:
            path = make_new(folder, config, manifest)
        else:
            path = folder / check_name("run.id", id)
            if not make_directory(path, config, manifest):
                raise UsageError(_exists(path))
        point_latest(path)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open a run. Raises UsageError when it is none, is damaged, or was written by another schema version."""
        path = Path(path)
        return cls(path, read_manifest(path))

    @classmethod
    def open_or_create(
        cls,
        path_root: str | Path,
        name: str,
        id: str | None = None,
        *,
        kind: str = "train",
        config: Config,
        parents: Sequence[Parent] = (),
    ) -> Run:
        """Open the run with this fixed id, or make it. Raises UsageError when the id is a run of another kind."""
        path = None if id is None else Path(path_root) / check_name("run.name", name) / check_name("run.id", id)
        if path is not None and path.exists():
            return _of_kind(cls.open(path), kind)
        try:
            return cls.create(path_root, name, id, kind=kind, config=config, parents=parents)
        except UsageError:
            if path is None or not path.is_dir():
                raise
        return _of_kind(cls.open(path), kind)  # another process was faster

    def nested(self, relative: str, *, kind: str = "stage", config: Config, parents: Sequence[Parent] = ()) -> Run:
        """Open or make a run inside this one, such as "stages/01-distill"; its id is this run's id and that path."""
        parts = PurePosixPath(relative).parts
        for part in parts:
            check_name("stage", part)
        path = self.path.joinpath(*parts)
        manifest = first_manifest(config, name=self.name, id="/".join((self.id, *parts)), kind=kind, parents=parents)
        path.parent.mkdir(parents=True, exist_ok=True)
        make_directory(path, config, replace(manifest, data_fingerprint=self.manifest.data_fingerprint))
        return _of_kind(Run.open(path), kind)

    # What it holds

    @property
    def manifest(self) -> Manifest:
        return read_manifest(self.path)

    @property
    def config(self) -> Config:
        """The resolved config, read from config.yaml.

        Raises ConfigError, and UsageError when the file is no longer the config that the manifest records.
        """
        from scaledl.config.load import load_config

        config = load_config(self.path / CONFIG_FILE, space=False)
        self._refuse_edited(config)
        return config

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model_dir(self) -> Path:
        return self.path / "model"

    @property
    def exports(self) -> Path:
        return self.path / "exports"

    @property
    def stages(self) -> Path:
        return self.path / "stages"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def label(self) -> str:
        """NAME/ID, as every verb takes it."""
        return f"{self.name}/{self.id}"

    @property
    def state(self) -> str:
        """The status; for one that says `running`, `killed` or `lost` when its process is gone."""
        manifest = self.manifest
        if manifest.status != "running":
            return manifest.status
        process = Process(manifest.host, manifest.pid, manifest.pid_start, manifest.boot_id)
        return liveness(process, self.path)

    def as_parent(self) -> Parent:
        """This run as the origin of another one. Raises UsageError when it has no recorded model."""
        sha256 = content_hash(self.manifest)
        if sha256 is None:
            raise UsageError(f"run {self.label} has no saved model (it is {self.state})")
        return Parent(self.name, self.id, str(self.path.absolute()), sha256)

    def _refuse_edited(self, config: Config) -> None:
        from scaledl.config import changed_keys, describe_changes

        try:
            recorded = type(config).model_validate(self.manifest.config)  # adds keys newer than the run
        except ValueError as error:
            raise UsageError(f"{self.path}/manifest.json is damaged: its config is not valid: {error}") from error
        changed = changed_keys(recorded, config)
        if changed:
            raise UsageError(
                f"{self.path / CONFIG_FILE} was edited after run {self.label} was made: {describe_changes(changed)}. "
                "Restore these keys; another config needs a run of its own"
            )

    # Attempts

    def begin(self) -> int:
        """Start an attempt as the run's only writer and return its number, from 1. One rank of a job calls it.

        Raises UsageError naming the holder when a live process holds the run, ScaledlError when it cannot be written.
        """
        with exclusive(self.path):
            manifest = self.manifest
            mine = self._lease.take(manifest.attempts)
            changes = {**asdict(mine.process), "attempts": mine.attempt, "status": "running", "error": None}
            write_manifest(self.path, replace(manifest, **changes, updated=now()))
        self._wall_before = manifest.wall_seconds
        remove_stale(self.path)
        return mine.attempt

    def check_token(self) -> None:
        """Raise ScaledlError when a newer attempt has taken over. Cheap: the file is read only when it changed.

        A process that did not `begin` (another rank) joins the attempt that it sees first.
        """
        self._lease.check()

    def heartbeat(self) -> None:
        """A sign of life for other machines, at most every 10 s."""
        self._lease.heartbeat()

    def finish(self, status: str, *, error: str | None = None, **metrics: float) -> None:
        """End the attempt: status, error and metrics into the manifest, and the run free for the next attempt."""
        assert status in _FINAL, status
        with exclusive(self.path):
            merged = {**self.manifest.metrics, **{key: float(value) for key, value in metrics.items()}}
            self._rewrite({"status": status, "error": error, "metrics": merged})
            self._lease.release()

    @contextmanager
    def attempt(self) -> Iterator[int]:
        """`begin`, and whatever ends the block early is kept as `preempted` or `failed`; the block itself finishes.

        Raises UsageError when a live process holds the run.
        """
        number = self.begin()
        try:
            yield number
        except (Preempted, Interrupted, KeyboardInterrupt) as stop:
            self._ended_by("preempted", str(stop) or "interrupted")
            raise
        except BaseException as error:
            known = isinstance(error, ScaledlError)
            self._ended_by("failed", str(error) if known else f"{type(error).__name__}: {error}")
            raise

    def _ended_by(self, status: str, error: str) -> None:
        """A full disk or a newer attempt must not hide what went wrong first."""
        try:
            self.finish(status, error=error)
        except ScaledlError as problem:
            get_console().warn(f"the status of {self.path} could not be written: {problem}")

    # Changes

    def update(self, **changes: Any) -> None:
        """Rewrite the manifest in one step with these keys changed; `config` may be a Config: config.yaml follows.

        Raises ScaledlError when a newer attempt has taken over or the storage refuses.
        """
        for key in changes:
            assert key in _CHANGEABLE, key
        with exclusive(self.path):
            self._rewrite(changes)

    def record(self, *relative: str) -> None:
        """Put the SHA-256 of these files (of every file of a folder) into the manifest, replacing what stood there.

        Raises UsageError when one does not exist or lies outside the run.
        """
        found = hash_files(self.path, relative)
        with exclusive(self.path):
            kept = {k: v for k, v in self.manifest.files.items() if not any(is_below(k, name) for name in relative)}
            self._rewrite({"files": dict(sorted({**kept, **found}.items()))})

    def verify_files(self, prefix: str = "") -> None:
        """Compare the recorded files below `prefix` with their hashes.

        Raises UsageError naming the first that is missing or differs, or when nothing is recorded there.
        """
        recorded = {name: sha for name, sha in self.manifest.files.items() if is_below(name, prefix)}
        if prefix and not recorded:
            raise UsageError(f"run {self.label} has no recorded file {prefix} (it is {self.state})")
        verify(self.path, recorded)

    def _rewrite(self, changes: dict[str, Any]) -> None:
        """With the lock held."""
        if self._lease.owned:
            self._lease.check()
            changes.setdefault("wall_seconds", self._wall_before + self._lease.seconds)
        config = changes.get("config")
        if config is not None and not isinstance(config, dict):
            write_config(self.path, config)
            changes["config"] = config.model_dump(mode="json")
        write_manifest(self.path, replace(self.manifest, **changes, updated=now()))


def _of_kind(run: Run, kind: str) -> Run:
    if run.kind != kind:
        raise UsageError(f"run {run.label} exists and is a {run.kind} run, not a {kind} run; take another run.id")
    return run


def _exists(path: Path) -> str:
    try:
        run = Run.open(path)
    except UsageError:
        return f"{path} exists and is not a run; take another run.id"
    return f"run {run.label} exists and is {run.state}: resume it, or take another run.id"
