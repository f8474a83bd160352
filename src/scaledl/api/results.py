"""What every run ends with: data that are checked, an evaluation, a verified file, a report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scaledl.config import Config, changed_keys, describe_changes, portable
from scaledl.console import get_console
from scaledl.errors import ScaledlError, UsageError
from scaledl.run import Run, atomic_json

if TYPE_CHECKING:
    from scaledl.data import DataModule
    from scaledl.evaluate import Evaluation
    from scaledl.export import Artifact, Verification
    from scaledl.models.structure import Model

Split = Literal["val", "test"]

# Keys of the data section that decide how samples are read, not which.
_SAME_DATA = ("data.batch_size", "data.eval_batch_size", "data.sampling", "data.augment.", "data.download")


@contextmanager
def reported_attempt(run: Run, config: Config) -> Iterator[None]:
    """An attempt that leaves a report, of a failure as well. None begins where another process holds the run."""
    began = False
    try:
        with run.attempt():
            began = True
            yield
    finally:
        if began:
            _try_report(run, Path(config.run.root))


def _try_report(run: Run, root: Path) -> None:
    """A full disk must neither hide what stopped the run nor undo a complete one."""
    from scaledl.report import write_report

    try:
        write_report(run, root)
    except Exception as error:  # whatever it is, the result is more than its report
        get_console().warn(f"no report: {error if isinstance(error, ScaledlError) else repr(error)}")


def data_of(run: Run, config: Config) -> DataModule:
    """The data of `config`, if it still is what `run` was trained on."""
    from scaledl.data import build_data

    data = build_data(config.data, config.run.seed)
    check_data(data, run, config)
    return data


def check_data(data: DataModule, run: Run, config: Config) -> None:
    """Refuse data of `config` that are not what `run` was trained on. Raises UsageError with the keys to blame."""
    known = run.manifest.data_fingerprint
    if known is None or known == data.spec.fingerprint:
        return
    changed = changed_keys(run.config, config, ignore=_SAME_DATA)
    to_blame = {key: values for key, values in changed.items() if key == "run.seed" or key.startswith("data.")}
    if to_blame:
        raise UsageError(
            f"{describe_changes(to_blame)}: with that the training and validation samples are not those that "
            f"{run.path} was trained on; restore these keys, or train another run with them"
        )
    check_fingerprint(data, known, str(run.path))


def check_fingerprint(data: DataModule, known: str | None, who: str) -> None:
    if known is not None and known != data.spec.fingerprint:
        raise UsageError(
            f"data.source: {data.spec.source} is not what {who} was trained on (fingerprint "
            f"{data.spec.fingerprint[:12]} instead of {known[:12]}); restore the data or start another run"
        )


def keep_result(run: Run, model: Model, data: DataModule, metrics: dict[str, float]) -> None:
    from scaledl.models.run_tokenizer import keep_tokenizer
    from scaledl.models.structure import save_model

    save_model(model, run.model_dir)
    keep_tokenizer(run.model_dir, data.spec.tokenizer)
    evaluation = evaluate_split(model.module, data, run.config, "test")
    write_evaluation(run.path / "evaluation.json", evaluation, data)
    run.record("model", "evaluation.json")
    run.finish("complete", error=None, **metrics, **_on_test(evaluation))


def publish(run: Run, data: DataModule, *, trust: bool) -> None:
    """Export and verify the result of a chain, and evaluate the file itself."""
    from scaledl.models.structure import load_model
    from scaledl.runtime import load

    artifact, _ = export_model(run, load_model(run.model_dir, trust=trust), data, run.exports / "model.ts")
    evaluation = evaluate_split(load(artifact.path).forward, data, run.config, "test")
    write_evaluation(run.path / "evaluation.json", evaluation, data)
    run.record("model", "exports", "table.json", "evaluation.json")
    run.finish("complete", error=None, **_on_test(evaluation), size_bytes=artifact.size)


def _on_test(evaluation: Evaluation) -> dict[str, float]:
    return {f"test_{name}": value for name, value in evaluation.metrics.items()}


def evaluate_split(predict: Any, data: DataModule, config: Config, split: Split) -> Evaluation:
    from scaledl.evaluate import evaluate_split as evaluate_outputs

    return evaluate_outputs(predict, data, config, split)


def write_evaluation(path: Path, evaluation: Evaluation, data: DataModule) -> None:
    """Write all figures as JSON, of classes with the confusion matrix (rows: true class)."""
    atomic_json(path, {**evaluation.to_dict(), "labels": list(data.spec.labels)})


def export_model(run: Run, model: Model, data: DataModule, path: Path) -> tuple[Artifact, Verification]:
    from scaledl.export import export_and_verify

    parent = run.as_parent()
    source = {"name": run.name, "id": run.id, "sha256": parent.sha256, "config": portable(run.config)}
    return export_and_verify(model, data, path, config=run.config.export, source=source, task=run.config.task, run=run)
