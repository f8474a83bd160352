"""Verbs about what is there: export, verify, evaluate, bench, report."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaledl.api.results import Split, check_fingerprint, data_of, evaluate_split, export_model
from scaledl.config import Config, replace
from scaledl.config.imported import check_trusted
from scaledl.errors import UsageError
from scaledl.run import Parent, Run, find_run, list_runs

if TYPE_CHECKING:
    from scaledl.bench import BenchRow
    from scaledl.data import DataModule
    from scaledl.evaluate import Evaluation
    from scaledl.export import Artifact, Verification

ANY_KIND = ("train", "compress", "stage")


def export(
    run: Run, output: Path | None = None, *, force: bool = False, trust: bool = False
) -> tuple[Artifact, Verification]:
    """Export a complete run's model and verify the file; an unverified file is not published.

    Args:
        trust: import the code that the run names, where its model is one's own class.
    """
    path = run.exports / "model.ts" if output is None else output
    check_trusted(run.config, trust, str(run.path))
    _check_output(path, force)
    run.verify_files("model")
    from scaledl.models.structure import load_model

    return export_model(run, load_model(run.model_dir, trust=trust), data_of(run, run.config), path)


def verify(path: Path, *, trust: bool = False) -> Verification:
    """Verify an exported file in a clean process, against its source run where that is at hand."""
    _refuse_special(path)
    from scaledl.export import verify as verify_file
    from scaledl.models.structure import load_model
    from scaledl.runtime.artifact import owning_run, read_sidecar

    owner = owning_run(path)
    source = _source_run(owner, read_sidecar(path)) if owner is not None else None
    if source is None:
        return verify_file(path, run=owner, trust=trust)
    check_trusted(source.config, trust, str(source.path))
    source.verify_files("model")
    data, model = data_of(source, source.config), load_model(source.model_dir, trust=trust)
    return verify_file(path, run=owner, model=model, data=data, trust=trust)


def evaluate(
    target: str | None, root: Path, *, split: Split = "test", trust: bool = False
) -> tuple[str, Evaluation, DataModule]:
    """What was evaluated, its figures and loss, and the data, which are those it was trained on.

    Of a run it is the model; of a quantized one the exported int8 file, whose figures the run's table gives.
    """
    if target is not None and is_file(target):
        return _evaluate_file(Path(target), root, split, trust)
    run = find_run(target, root, kinds=ANY_KIND if target is not None else ("train",))
    check_trusted(run.config, trust, str(run.path))
    run.verify_files("model")
    data = data_of(run, run.config)
    name, predict = result_of(run, trust=trust)
    return name, evaluate_split(predict, data, run.config, split), data


def bench(
    targets: Sequence[str], root: Path, *, batch_sizes: Sequence[int], threads: int, rounds: int, trust: bool = False
) -> list[BenchRow]:
    """Latency of exported files and of runs (eager fp32), interleaved."""
    for target in targets:
        is_file(target)
    from scaledl.bench import bench_targets

    return bench_targets(targets, root, batch_sizes=batch_sizes, threads=threads, rounds=rounds, trust=trust)


def report(run: Run, root: Path) -> Path:
    """Write the run's report.html and return its path."""
    from scaledl.report import write_report

    return write_report(run, root)


def result_of(run: Run, *, trust: bool = False) -> tuple[str, Any]:
    """What a run is used as, under its name: a model with fake quantization only foretells the int8 one."""
    from scaledl.models.quantized import convert, is_quantized
    from scaledl.models.structure import load_model
    from scaledl.runtime import load

    model = load_model(run.model_dir, trust=trust)
    if not is_quantized(model.structure):
        return str(run.path), model.module
    if "exports/model.ts" in run.manifest.files:
        path = run.exports / "model.ts"
        return str(path), load(path).forward
    return f"{run.path} (converted to int8)", convert(model)


def _evaluate_file(path: Path, root: Path, split: Split, trust: bool) -> tuple[str, Evaluation, DataModule]:
    from scaledl.data import build_data
    from scaledl.runtime import load

    predictor = load(path, trust=trust)
    config = _with_data_root(_embedded_config(path, predictor.manifest), path, predictor.manifest["source"], root)
    check_trusted(config, trust, str(path))
    data = build_data(config.data, config.run.seed)
    recorded = predictor.manifest.get("data")
    check_fingerprint(data, recorded.get("fingerprint") if isinstance(recorded, dict) else None, str(path))
    if tuple(predictor.labels) != tuple(data.spec.labels) or tuple(predictor.spec.shape) != tuple(data.spec.in_shape):
        raise UsageError(f"{path}: its labels and input do not fit the data that it names ({data.spec.source})")
    return str(path), evaluate_split(predictor.forward, data, config, split), data


def _embedded_config(path: Path, manifest: dict[str, Any]) -> Config:
    source = manifest.get("source")
    content = source.get("config") if isinstance(source, dict) else None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: it does not say which config it comes from, so its data are not known")
    try:
        return Config.model_validate(content)
    except ValueError as error:
        raise UsageError(f"{path}: the config in it cannot be used here: {error}") from error


def _with_data_root(config: Config, path: Path, source: dict[str, Any], root: Path) -> Config:
    """Files do not say which folder of which machine held their data; a run with the same model here may know."""
    from scaledl.run.manifest import content_hash
    from scaledl.runtime.artifact import owning_run

    if config.data.root is not None:
        return config
    owner = owning_run(path)
    same = (run for run in list_runs(root) if content_hash(run.manifest) == source.get("sha256"))
    known = owner or next(same, None)
    return config if known is None else replace(config, {"data.root": known.config.data.root})


def _check_output(path: Path, force: bool) -> None:
    if path.is_dir():
        raise UsageError(f"--output: {path} is a folder; give the file to write, such as {path / 'model.ts'}")
    if path.exists() and not path.is_file():
        raise UsageError(f"--output: {path} is not an ordinary file; give another one")
    if path.exists() and not force:
        raise UsageError(f"{path} exists; --force replaces it, --output FILE.ts writes another")
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    if not folder.is_dir():
        raise UsageError(f"--output: {path} cannot be written: {folder} is not a folder")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"--output: {path} cannot be written: {folder}: {error.strerror}; give another file"
        ) from error


def is_file(target: str) -> bool:
    """Whether an exported file is meant, not a run."""
    if "\0" in target:
        raise UsageError(f"{target!r}: not a name of a file or run")
    path = Path(target)
    _refuse_special(path)
    return path.is_file() or (path.suffix == ".ts" and not path.is_dir())


def _refuse_special(path: Path) -> None:
    """Reading a pipe or a device would wait for ever."""
    try:
        special = path.exists() and not path.is_file() and not path.is_dir()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    if special:
        raise UsageError(f"{path}: a pipe or a device, not a file; give an exported file or a run")


def _source_run(owner: Run, sidecar: dict[str, Any] | None) -> Run | None:
    """The run whose model the file was made from: its owner, or the one that this was compressed from."""
    source = sidecar.get("source") if sidecar else None
    sha256 = source.get("sha256") if isinstance(source, dict) else None
    if sha256 is None or (owner.manifest.files and owner.as_parent().sha256 == sha256):
        return owner
    for parent in owner.manifest.parents:
        if parent.sha256 == sha256:
            return _run_of(parent)
    return None


def _run_of(parent: Parent) -> Run | None:
    try:
        run = Run.open(parent.path)
        return run if run.as_parent().sha256 == parent.sha256 else None
    except UsageError:
        return None
