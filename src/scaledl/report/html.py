"""One run as one HTML file that needs no network: no script, no link, every text escaped."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from scaledl.config.figures import figure_of, heading
from scaledl.config.load import dump_yaml
from scaledl.report import units
from scaledl.report.curves import read_curves
from scaledl.report.search import view_search
from scaledl.report.tables import Confusion, StageTable, confusion_table, stage_table
from scaledl.run import Manifest, Parent, Run, atomic_write, lineage

Pairs = list[tuple[str, str]]


def write_report(run: Run, root: Path) -> Path:
    """Write `report.html` into the run's folder, from whatever the run has recorded so far.

    `root` is the folder of all runs, in which relatives are looked up. Raises UsageError when the run's
    manifest or config cannot be read, and ScaledlError when the file cannot be written.
    """
    path = run.path / "report.html"
    atomic_write(path, render(run, root))
    return path


def render(run: Run, root: Path) -> str:
    """The page as text."""
    if run.kind == "tune":
        return _page("search_template.html", run, root, view_search(run).values())
    return _page("template.html", run, root, _training(run))


def _page(template: str, run: Run, root: Path, values: dict[str, Any]) -> str:
    """A page with what every run has: state, lineage, surroundings, config, files."""
    manifest = run.manifest
    return (
        environment()
        .get_template(template)
        .render(
            title=f"{manifest.name}/{manifest.id}",
            kind=manifest.kind,
            state=run.state,
            error=manifest.error,
            facts=_facts(manifest),
            relatives=_relatives(run, root),
            config=dump_yaml(run.config),
            files=sorted(manifest.files.items()),
            **values,
        )
    )


def _training(run: Run) -> dict[str, Any]:
    damaged: list[str] = []
    table = _read_json(run.path / "table.json", damaged)
    evaluation = _read_json(run.path / "evaluation.json", damaged)
    return {
        "notices": [f"{name} is damaged and was left out." for name in damaged],
        "metrics": _metrics(run.manifest),
        "table": _table(table),
        "charts": read_curves(run.metrics_file).charts(),
        "confusion": _confusion(evaluation),
        "evaluation": _evaluation_facts(evaluation),
        "stages": _stages(run),
    }


def environment() -> Environment:
    def read(name: str) -> str:
        return files("scaledl.report").joinpath(name).read_text(encoding="utf-8")

    return Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(read)
    )


def _read_json(path: Path, damaged: list[str]) -> dict[str, Any]:
    """An absent file is an empty one; the name of a file that is not a JSON object goes to `damaged`."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        value = None
    if isinstance(value, dict):
        return value
    damaged.append(path.name)
    return {}


def _metrics(manifest: Manifest) -> Pairs:
    return [
        (name.removesuffix("_bytes").replace("_", " "), units.metric(name, value))
        for name, value in sorted(manifest.metrics.items())
    ]


def _facts(manifest: Manifest) -> Pairs:
    facts = [
        ("Started", units.moment(manifest.created)),
        ("Last change", units.moment(manifest.updated)),
        ("Wall time", units.seconds(manifest.wall_seconds)),
        ("Attempts", str(manifest.attempts)),
        ("Processes", str(manifest.world_size)),
        ("Seed", str(manifest.seed)),
        ("Data", manifest.data_fingerprint or units.MISSING),
        ("Git revision", manifest.git_revision or units.MISSING),
        ("Host", str(manifest.host or units.MISSING)),
    ]
    facts += [_hardware(name, value) for name, value in manifest.hardware.items()]
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    return [*facts, ("Versions", versions or units.MISSING)]


def _hardware(name: str, value: Any) -> tuple[str, str]:
    label = {"cpus": "CPUs", "gpus": "GPUs"}.get(name, name.removesuffix("_bytes").replace("_", " ").capitalize())
    if name.endswith("_bytes"):
        return label, units.size(value)
    if isinstance(value, (list, tuple)):
        return label, ", ".join(map(str, value)) or "none"
    return label, str(value)


def _table(content: dict[str, Any]) -> StageTable | None:
    rows = content.get("rows")
    return stage_table(rows) if rows else None


def _confusion(evaluation: dict[str, Any]) -> Confusion | None:
    matrix = evaluation.get("confusion")
    return confusion_table(matrix, [str(label) for label in evaluation.get("labels", [])]) if matrix else None


def _evaluation_facts(evaluation: dict[str, Any]) -> str:
    if not evaluation:
        return ""
    headline = evaluation.get("metric", "accuracy")
    names = sorted((name for name in evaluation if figure_of(name)), key=lambda name: name != headline)
    parts = [
        f"{heading(name)} {units.metric(name, evaluation[name])}" for name in names if evaluation[name] is not None
    ]
    number = evaluation.get("count")
    return ", ".join([*parts, *([f"{number} samples"] if number is not None else [])])


@dataclass(frozen=True)
class StageView:
    name: str
    state: str
    error: str | None
    wall: str
    metrics: Pairs
    charts: list[Markup]
    settings: str


def _stages(run: Run) -> list[StageView]:
    folders = sorted(run.stages.iterdir()) if run.stages.is_dir() else []
    return [_stage(Run.open(folder)) for folder in folders if (folder / "manifest.json").is_file()]


def _stage(stage: Run) -> StageView:
    manifest = stage.manifest
    return StageView(
        name=stage.path.name,
        state=stage.state,
        error=manifest.error,
        wall=units.seconds(manifest.wall_seconds),
        metrics=_metrics(manifest),
        charts=read_curves(stage.metrics_file).charts(),
        settings=dump_yaml(stage.config),
    )


@dataclass(frozen=True)
class Relative:
    depth: int
    name: str
    detail: str
    current: bool


def _relatives(run: Run, root: Path) -> list[Relative]:
    family = lineage(run, root)
    top = min((depth for depth, _ in family), default=0)
    return [_relative(depth - top, member, run) for depth, member in family]


def _relative(depth: int, member: Run | Parent, run: Run) -> Relative:
    name = f"{member.name}/{member.id}"
    if isinstance(member, Parent):
        return Relative(depth, name, f"not in this folder any more, sha256 {member.sha256[:12]}", False)
    manifest = member.manifest
    detail = f"{manifest.kind}, {member.state}, {units.moment(manifest.created)}"
    return Relative(depth, name, detail, member.path.resolve() == run.path.resolve())
