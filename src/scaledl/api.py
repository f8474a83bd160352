"""The verbs as functions: what the commands call, and what a notebook calls."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from scaledl.bench import BenchRow, bench_targets
from scaledl.compress import pipeline
from scaledl.config import Config, replace
from scaledl.console import get_console
from scaledl.data import DataModule, build_data
from scaledl.errors import Interrupted, Preempted, UsageError
from scaledl.evaluate import Evaluation
from scaledl.evaluate import evaluate as evaluate_outputs
from scaledl.export import Artifact, Verification, export_and_verify
from scaledl.export import verify as verify_file
from scaledl.models.structure import Model, load_model, new_model, save_model
from scaledl.report import write_report
from scaledl.run import Parent, Run, atomic_json, default_id, find_run
from scaledl.runtime import load as load_artifact
from scaledl.train import fit

# What may differ when a run goes on: it changes neither the weights nor the order of samples.
_FREE_ON_RESUME = ("run.", "compress.", "export.", "trainer.log_every_n_steps", "trainer.keep_last", "data.root")


def train(config: Config) -> Run:
    """Train as `config` says and evaluate the result on the test split; a fixed run.id resumes.

    Raises:
        UsageError: the id belongs to a run of another config or another dataset.
        Preempted, Interrupted: stopped by a signal after saving.
    """
    console = get_console()
    run = Run.open_or_create(Path(config.run.root), _name(config), default_id(config), kind="train", config=config)
    _refuse_changes(run.config, config, run)
    if run.state == "complete":
        console.info(f"{run.path}: already complete")
        return run
    with _attempt(run):
        console.info(f"run {run.path}")
        data = build_data(config.data, config.run.seed)
        _check_fingerprint(run, data)
        run.update(data_fingerprint=data.spec.fingerprint)
        model = new_model(config.model, data.spec.in_shape, data.spec.num_classes, config.run.seed)
        result = fit(config, run, data, model)
        _keep_result(run, result.model, data, result.metrics)
    return run


def compress(source: Run, config: Config) -> Run:
    """Run the recipe in `config.compress` on a complete run; export and verify the result.

    Raises:
        UsageError: no recipe, an order that cannot work, a student larger than its teacher.
        VerdictError: the exported file failed its verification.
    """
    if not config.compress.stages:
        raise UsageError("compress: no recipe; give --method distill,prune,qat or --recipe FILE")
    data = build_data(config.data, config.run.seed)
    _check_fingerprint(source, data)
    pipeline.check_chain(source, config, data)
    parent = source.as_parent()
    run = Run.open_or_create(
        Path(config.run.root),
        source.name,
        _recipe_id(source, parent, config),
        kind="compress",
        config=config,
        parents=(parent,),
    )
    if run.state == "complete":
        get_console().info(f"{run.path}: already complete")
        return run
    with _attempt(run):
        get_console().info(f"compressing {source.path} -> {run.path}")
        run.update(data_fingerprint=data.spec.fingerprint)
        pipeline.run_chain(source, config, run, data)
        model = load_model(run.model_dir)
        artifact, _ = _export(run, model, data, run.exports / "model.ts")
        evaluation = _evaluate(load_artifact(artifact.path).predict, data, config, "test")
        write_evaluation(run.path / "evaluation.json", evaluation, data)
        run.record("model", "exports", "table.json", "evaluation.json")
        run.finish("complete", test_accuracy=evaluation.accuracy, test_loss=evaluation.loss, size_bytes=artifact.size)
    write_report(run, Path(config.run.root))
    return run


def chain(config: Config) -> tuple[Run, Run]:
    """Train and compress in one go; each part resumes or is taken from what is there."""
    if not config.compress.stages:
        raise UsageError("compress.stages: empty; a chain needs a recipe, e.g. [{method: distill}, {method: qat}]")
    if config.run.id is None:
        config = replace(config, {"run.id": default_id(config) or f"chain-{_digest(config)}"})
    trained = train(config)
    return trained, compress(trained, config)


def export(run: Run, output: Path | None = None, *, force: bool = False) -> tuple[Artifact, Verification]:
    """Export a complete run's model and verify the file; an unverified file is not published."""
    path = output or run.exports / "model.ts"
    if path.exists() and not force:
        raise UsageError(f"{path} exists; --force replaces it, --output FILE.ts writes another")
    run.verify_files("model")
    data = build_data(run.config.data, run.config.run.seed)
    artifact, verification = _export(run, load_model(run.model_dir), data, path)
    if path.is_relative_to(run.path):
        run.record("exports")
    return artifact, verification


def verify(path: Path, *, trust: bool = False) -> Verification:
    """Verify an exported file in a clean process, against its source run where that is at hand."""
    run = _run_around(path)
    if run is None:
        return verify_file(path, trust=trust)
    data = build_data(run.config.data, run.config.run.seed)
    return verify_file(path, run=run, model=load_model(run.model_dir), data=data, trust=trust)


def evaluate(
    target: str | None, root: Path, *, split: Literal["val", "test"] = "test", trust: bool = False
) -> tuple[str, Evaluation, DataModule]:
    """Accuracy, loss and confusion matrix of a run's model or of an exported file."""
    if target is not None and Path(target).is_file():
        predictor = load_artifact(Path(target), trust=trust)
        source = predictor.manifest["source"]
        config = Config.model_validate(source["config"])
        data = build_data(config.data, config.run.seed)
        return target, _evaluate(predictor.predict, data, config, split), data
    run = find_run(target, root, kinds=("train", "compress", "stage"))
    run.verify_files("model")
    data = build_data(run.config.data, run.config.run.seed)
    return str(run.path), _evaluate(load_model(run.model_dir).module, data, run.config, split), data


def bench(
    targets: Sequence[str], root: Path, *, batch_sizes: Sequence[int], threads: int, rounds: int, trust: bool = False
) -> list[BenchRow]:
    """Latency of exported files and of runs (eager fp32), interleaved."""
    return bench_targets(targets, root, batch_sizes=batch_sizes, threads=threads, rounds=rounds, trust=trust)


def report(run: Run, root: Path) -> Path:
    """Write the run's report.html and return its path."""
    return write_report(run, root)


@contextmanager
def _attempt(run: Run) -> Iterator[None]:
    run.begin()
    try:
        yield
    except (Preempted, Interrupted, KeyboardInterrupt) as stop:
        run.finish("preempted", error=str(stop) or "interrupted")
        raise
    except BaseException as error:
        run.finish("failed", error=f"{type(error).__name__}: {error}")
        raise


def _check_fingerprint(run: Run, data: DataModule) -> None:
    known = run.manifest.data_fingerprint
    if known is not None and known != data.spec.fingerprint:
        raise UsageError(
            f"data.source: {data.spec.source} is not what {run.path} was trained on (fingerprint "
            f"{data.spec.fingerprint[:12]} instead of {known[:12]}); restore the data or start another run"
        )


def _keep_result(run: Run, model: Model, data: DataModule, metrics: dict[str, float]) -> None:
    save_model(model, run.model_dir)
    evaluation = _evaluate(model.module, data, run.config, "test")
    write_evaluation(run.path / "evaluation.json", evaluation, data)
    run.record("model", "evaluation.json")
    run.finish("complete", **metrics, test_accuracy=evaluation.accuracy, test_loss=evaluation.loss)
    write_report(run, Path(run.config.run.root))


def _evaluate(predict: Any, data: DataModule, config: Config, split: Literal["val", "test"]) -> Evaluation:
    loader = data.eval_loader(split, config.data.eval_batch_size)
    return evaluate_outputs(predict, loader, data.spec.num_classes)


def write_evaluation(path: Path, evaluation: Evaluation, data: DataModule) -> None:
    """Write accuracy, loss and confusion matrix (rows: true class) as JSON."""
    atomic_json(
        path,
        {
            "accuracy": evaluation.accuracy,
            "loss": evaluation.loss,
            "count": evaluation.count,
            "labels": list(data.spec.labels),
            "confusion": evaluation.confusion.tolist(),
        },
    )


def _export(run: Run, model: Model, data: DataModule, path: Path) -> tuple[Artifact, Verification]:
    parent = run.as_parent()
    source = {"name": run.name, "id": run.id, "sha256": parent.sha256, "config": run.config.model_dump(mode="json")}
    return export_and_verify(model, data, path, config=run.config.export, source=source, run=run)


def _run_around(path: Path) -> Run | None:
    candidate = path.resolve().parent.parent
    if path.resolve().parent.name != "exports" or not (candidate / "manifest.json").is_file():
        return None
    return Run.open(candidate)


def _name(config: Config) -> str:
    return config.run.name or f"{config.model.family}-{config.data.source}"


def _refuse_changes(old: Config, new: Config, run: Run) -> None:
    changed = [key for key in changed_keys(old, new) if not key.startswith(_FREE_ON_RESUME)]
    if changed:
        raise UsageError(
            f"{run.path} was started with another config; changed: {', '.join(changed)}. "
            "Give the run another --id, or restore these keys"
        )


def changed_keys(old: Config, new: Config) -> list[str]:
    """Dotted keys whose values differ."""
    a, b = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        k: v for name, item in value.items() for k, v in _flat(item, f"{prefix}.{name}" if prefix else name).items()
    }


def _recipe_id(source: Run, parent: Parent, config: Config) -> str:
    methods = "-".join(stage.method for stage in config.compress.stages)
    return f"{source.id}-{methods}-{_digest(config, parent.sha256)}"[:100]


def _digest(config: Config, *more: str) -> str:
    content = json.dumps([config.model_dump(mode="json", exclude={"run": {"id"}}), *more], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:8]
