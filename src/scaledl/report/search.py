"""The page of a search: what it tried, what is best, which keys decide."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from scaledl.report import units
from scaledl.report.findings import Findings, last_value, read_findings, value_text
from scaledl.report.importance import importances
from scaledl.report.parallel import parallel_coordinates
from scaledl.report.search_charts import best_so_far, importance_bars, learning_curves, pareto
from scaledl.run import Run
from scaledl.tune.directory import best_files
from scaledl.tune.sampling import method_of, rule_of
from scaledl.tune.study import Trial, saved_seconds

Pairs = list[tuple[str, str]]

STATES = {
    "complete": "complete",
    "stopped": "stopped early",
    "running": "running",
    "nonfinite": "not finite",
    "failed": "failed",
    "invalid": "no valid config",
}
BEST_ROWS, MAX_ROWS, MAX_CELLS = 20, 1000, 20_000
ERROR_LENGTH = 160


@dataclass(frozen=True)
class Row:
    cells: Sequence[str]
    mark: str = ""  # class of the page's style sheet


@dataclass(frozen=True)
class Table:
    """The first cell of a row is its head. `titles`: of columns whose head is shortened, the whole."""

    columns: Sequence[str]
    rows: Sequence[Row]
    titles: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ImportanceView:
    name: str
    bars: Markup | None
    words: str


@dataclass(frozen=True)
class SearchView:
    """What stands on the page, besides what every run's page has."""

    notices: list[str]
    metrics: Pairs
    settings: Pairs
    space: Table | None = None
    best: Table | None = None
    has_front: bool = False
    commands: list[str] = field(default_factory=list)
    charts: list[Markup] = field(default_factory=list)
    parallel: Markup | None = None
    importances: list[ImportanceView] = field(default_factory=list)
    trials: Table | None = None
    left_out: int = 0

    def values(self) -> dict[str, Any]:
        return dict(vars(self))


def view_search(run: Run) -> SearchView:
    """Everything that can be said about a search now, also while it runs."""
    found = read_findings(run)
    if isinstance(found, str):
        return SearchView([found], [], _settings(run))
    charts = [chart for chart in (best_so_far(found), pareto(found), learning_curves(found)) if chart is not None]
    trials = _trials(found)
    return SearchView(
        notices=[],
        metrics=_counts(found),
        settings=_settings(run),
        space=_space(found),
        best=_best(found) if found.complete else None,
        has_front=len(found.objectives) > 1,
        commands=_commands(run),
        charts=charts,
        parallel=parallel_coordinates(found),
        importances=_importances(found) if found.trials else [],
        trials=trials if found.trials else None,
        left_out=len(found.trials) - len(trials.rows),
    )


def _counts(found: Findings) -> Pairs:
    states = Counter(trial.state for trial in found.trials)
    asked = max(found.config.tune.trials, len(found.trials))
    pairs = [("Trials begun", f"{len(found.trials)} of {asked}")]
    pairs += [(label.capitalize(), str(states[state])) for state, label in STATES.items() if states[state]]
    if found.num_known:
        pairs.append(("Known from earlier searches", str(found.num_known)))
    pairs.append(("Trial time", units.seconds(sum(trial.seconds for trial in found.trials))))
    saved = saved_seconds(found.trials, found.config.trainer.epochs)
    pairs += [("Saved by stopping early", units.seconds(saved))] if saved else []
    return [*pairs, ("Epochs trained", str(sum(trial.epochs for trial in found.trials)))]


def _settings(run: Run) -> Pairs:
    tune = run.config.tune
    limits = {"patience": tune.patience, "target": tune.target, "hours": tune.hours}
    pairs = [
        ("Objectives", ", ".join(f"{name} ({way})" for name, way in run.config.objectives.items())),
        ("A trial is a", {"train": "training", "compress": "compression"}[tune.verb]),
        ("Settings chosen by", method_of(tune)),
        ("Stopped early by", rule_of(tune)),
    ]
    return pairs + [(name.capitalize(), f"{value:g}") for name, value in limits.items() if value is not None]


def _space(found: Findings) -> Table:
    single = found.best[0] if len(found.best) == 1 else None
    rows = []
    for name, text in found.space.describe():
        own = [value_text(found.own_values[name])] if name in found.own_values else [units.MISSING]
        best = [] if single is None else [_value(single, name)]
        rows.append(Row([name, text, *own, *best]))
    return Table(["Key", "Searched", "Config", *([f"Best, trial {single.number}"] if single else [])], rows)


def _value(trial: Trial, name: str) -> str:
    return value_text(trial.point[name]) if name in trial.point else units.MISSING


def _best(found: Findings) -> Table:
    """The best of one objective, or the front of several."""
    single = len(found.objectives) == 1
    shown = found.complete[:5] if single else found.ranked[: min(BEST_ROWS, len(found.best))]
    marks = [_mark(found, trial) if single else "" for trial in shown]
    rows = [Row([str(t.number), *_figures(found, t), _changes(found, t)], m) for t, m in zip(shown, marks, strict=True)]
    return Table(["Trial", *(objective.name for objective in found.objectives), "Other than the config"], rows)


def _changes(found: Findings, trial: Trial) -> str:
    changes = found.changes(trial)
    return ", ".join(f"{name}={value_text(value)}" for name, value in changes.items()) or "the config as it is"


def _figures(found: Findings, trial: Trial) -> list[str]:
    """Its objectives; where it did not come to its end, the last value of the first."""
    last = last_value(trial)
    known = trial.values or (() if last is None else (last,))
    texts = [objective.text(value) for objective, value in zip(found.objectives, known, strict=False)]
    return texts + [units.MISSING] * (len(found.objectives) - len(texts))


def _mark(found: Findings, trial: Trial) -> str:
    return "best" if found.is_best(trial) else "" if trial.state in ("complete", "running") else "soft"


def _commands(run: Run) -> list[str]:
    """What makes a model of the best."""
    files = best_files(run)
    if run.config.tune.verb == "train":
        return [shlex.join(["scaledl", "train", str(path)]) for path in files[:BEST_ROWS]]
    source = next((str(parent.path) for parent in run.manifest.parents), "RUN")
    return [shlex.join(["scaledl", "compress", source, "--recipe", str(path)]) for path in files[:BEST_ROWS]]


def _importances(found: Findings) -> list[ImportanceView]:
    return [
        ImportanceView(each.objective.name, importance_bars(found, each), each.words) for each in importances(found)
    ]


def _trials(found: Findings) -> Table:
    dimensions = found.space.dimensions
    keys = [found.short(dimension) for dimension in dimensions]
    columns = ["Trial", "State", *(objective.name for objective in found.objectives), "Epochs", "Seconds", *keys]
    columns += ["Host", "Attempts", "Error"]
    shown = found.ranked[: max(50, min(MAX_ROWS, MAX_CELLS // len(columns)))]
    titles = {key: dimension.name for key, dimension in zip(keys, dimensions, strict=True)}
    return Table(columns, [Row(_cells(found, trial), _mark(found, trial)) for trial in shown], titles)


def _cells(found: Findings, trial: Trial) -> list[str]:
    return [
        *(str(trial.number), _state(trial), *_figures(found, trial), str(trial.epochs), f"{trial.seconds:.1f}"),
        *(_value(trial, dimension.name) for dimension in found.space.dimensions),
        *(trial.host or units.MISSING, str(trial.attempts), _cut(trial.error)),
    ]


def _state(trial: Trial) -> str:
    text = STATES.get(trial.state, trial.state)
    return text if trial.parent is None else f"{text}, from trial {trial.parent}"


def _cut(text: str) -> str:
    return text if len(text) <= ERROR_LENGTH else f"{text[: ERROR_LENGTH - 1]}…"
