"""What the verbs print: one JSON document, or lines and tables for people."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scaledl.config.figures import heading, written
from scaledl.config.imported import imports_of
from scaledl.config.recipe import usual_recipe
from scaledl.config.schema.sequence import RECURRENT
from scaledl.config.traits import figures_of
from scaledl.console import get_console
from scaledl.run import Parent, Run


def print_json(document: Any) -> None:
    """One document on standard output; JSON has no NaN and no infinities, so these become null."""
    get_console().result(json.dumps(_finite(document), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def command(*words: object) -> str:
    """A scaledl command as it must be typed here."""
    return shlex.join([_program(), *map(str, words)])


def _program() -> str:
    """How this command was started."""
    started = Path(sys.argv[0])
    if started.name != "scaledl" or shutil.which("scaledl") == str(started.absolute()):
        return "scaledl"
    path = started.absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def run_document(run: Run) -> dict[str, Any]:
    """A run for JSON."""
    manifest = run.manifest
    return {
        "path": str(run.path),
        "name": run.name,
        "id": run.id,
        "kind": run.kind,
        "status": run.state,
        "created": manifest.created,
        "metrics": manifest.metrics,
        "parents": [vars(parent) for parent in manifest.parents],
        "error": manifest.error,
    }


def run_row(run: Run) -> list[str]:
    """A run as a row of `scaledl runs`."""
    manifest = run.manifest
    name, value = headline(run)
    parents = ", ".join(f"{parent.name}/{parent.id}" for parent in manifest.parents)
    figure = "" if value is None else written(name, value)
    shown = figure if not figure or name == "test_accuracy" else f"{heading(name).removeprefix('test ')} {figure}"
    return [run.label, run.kind, run.state, shown, _age(manifest.created), parents]


def headline(run: Run) -> tuple[str, float | None]:
    """Name and value of what a run is judged by on the test split; no value before its end, or of a run without one."""
    name = f"test_{figures_of(run.manifest.config.get('task', {}))[0]}"
    return name, run.manifest.metrics.get(name)


def entry_document(entry: Run | Parent) -> dict[str, Any]:
    """A relative for JSON."""
    return run_document(entry) if isinstance(entry, Run) else {**vars(entry), "status": "not here"}


def entry_line(entry: Run | Parent, current: Run) -> str:
    """A relative on one line; the run that was asked for is marked."""
    if not isinstance(entry, Run):
        return f"{entry.name}/{entry.id}  (not here; sha256 {entry.sha256[:12]})"
    name, value = headline(entry)
    shown = "" if value is None else f"  {heading(name)} {written(name, value)}"
    mark = "  <- this run" if entry == current else ""
    return f"{entry.label}  {entry.kind}  {entry.state}{shown}{mark}"


def _age(created: str) -> str:
    moment = datetime.fromisoformat(created)
    seconds = (datetime.now(UTC) - (moment if moment.tzinfo else moment.replace(tzinfo=UTC))).total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def print_trained(run: Run) -> None:
    """The result of a training, and what to do with it."""
    console = get_console()
    rows = [(heading(name), written(name, value)) for name, value in _test_figures(run).items()]
    rows += [*_test_samples(run), ("run", str(run.path))]
    width = max(map(len, ("report", *(label for label, _ in rows))))
    for label, value in rows:
        console.result(f"{label:<{width}}  {value}")
    _print_report(run, " " * (width - 4))
    for table in sorted(run.path.glob("fit-profile-0*.txt")):
        console.result(f"{'profile':<{width}}  {table}")
    console.result("try next:")
    console.result(f"  {command('compress', run.path, *usual_recipe(run.config))}")


def _test_samples(run: Run) -> list[tuple[str, str]]:
    """How many, where the config leaves some of the test split out."""
    limit = run.config.trainer.limit_test_batches
    if isinstance(limit, float) and limit == 1:  # 1 is one batch
        return []
    count = json.loads((run.path / "evaluation.json").read_bytes())["count"]
    return [("test samples", f"{count:,}, as trainer.limit_test_batches says")]


def _test_figures(run: Run) -> dict[str, float]:
    """What was measured on the test split: the headline, then the others, the loss only where it is the headline."""
    first, _ = headline(run)
    metrics = run.manifest.metrics
    others = [name for name in metrics if name.startswith("test_") and name != "test_loss"]
    return {name: metrics[name] for name in (first, *others) if name in metrics}


def print_compressed(source: Run, run: Run, table: tuple[list[str], list[list[str]]], footnote: str = "") -> None:
    """The before/after table of a chain, where its files are, and what to do with them."""
    console = get_console()
    console.table(*table)
    if footnote:
        console.result(footnote)
    artifact = run.exports / "model.ts"
    console.result(f"artifact  {artifact} (verified)")
    _print_report(run, " " * 4)
    trust = ["--trust"] if imports_of(source.config) else []
    only_ptq = [stage.method for stage in run.config.compress.stages] == ["ptq"]
    other = "ptq" if not only_ptq else "prune,ptq" if source.config.model.family in RECURRENT else "prune,qat"
    console.result("try next:")
    console.result(f"  {command('bench', source.path, artifact, *trust)}")
    console.result(f"  {command('evaluate', artifact)}")
    console.result(f"  {command('compress', source.path, '--method', other, *trust)}")


def _print_report(run: Run, space: str) -> None:
    report = run.path / "report.html"
    if report.is_file():
        get_console().result(f"report{space}{report}")


def print_verification(path: Path, verification: Any, *, as_json: bool) -> None:
    """Each check with its outcome, and the verdict."""
    if as_json:
        return print_json({"path": str(path), **verification.to_dict()})
    console = get_console()
    rows = [["ok" if check.ok else "FAILED", check.name, check.detail] for check in verification.checks]
    console.table(["", "check", "detail"], rows)
    return console.result(f"{path}: {'verified' if verification.ok else 'NOT verified'}")
