"""What a search found, for people and as JSON."""

from __future__ import annotations

from typing import Any

from scaledl.commands.output import command, run_document
from scaledl.config import space_of
from scaledl.config.space import shorten
from scaledl.console import get_console
from scaledl.run import Run
from scaledl.tune.board import describe_trial, duration
from scaledl.tune.directory import best_files
from scaledl.tune.study import Study, Trial, read_study, saved_seconds

ROWS = 10


def search_document(run: Run) -> dict[str, Any]:
    """A search with all its trials, for JSON."""
    study = _study(run)
    best = study.best()
    return {
        **run_document(run),
        "objectives": dict(run.config.objectives),
        "space": dict(study.space.describe()),
        "best": [trial.number for trial in best],
        "best_configs": [str(path) for path in best_files(run)],
        "trials": [_trial_document(trial, study) for trial in study.own()],
    }


def _trial_document(trial: Trial, study: Study) -> dict[str, Any]:
    values = dict(zip(study.config.objectives, trial.values, strict=False))
    return {
        "number": trial.number,
        "state": trial.state,
        "point": trial.point,
        "values": values,
        "curve": {str(epoch): value for epoch, value in trial.curve.items()},
        "epochs": trial.epochs,
        "seconds": trial.seconds,
        "attempts": trial.attempts,
        "host": trial.host,
        "error": trial.error,
    }


def _study(run: Run) -> Study:
    config = run.config
    return read_study(run.path, config, space_of(config))


def print_search(run: Run) -> None:
    """The best trials, what was spent, and what to do with the best."""
    console = get_console()
    study = _study(run)
    trials = study.own()
    shown = _best_first(study, trials)[:ROWS]
    if shown:
        console.table(*_table(study, shown))
    console.result(f"search   {run.path}  ({run.state})")
    console.result(f"trials   {_counts(trials, run.config.tune.trials)}; {_spent(trials, run.config.trainer.epochs)}")
    best = study.best()
    default = study.space.default_point(run.config)
    for trial in best[:ROWS]:
        text = describe_trial(trial, run.config.objectives, default)
        console.result(f"best     trial {trial.number}  {text}")
    for path in best_files(run)[:ROWS]:
        console.result(f"config   {path}")
    report = run.path / "report.html"
    if report.is_file():
        console.result(f"report   {report}")
    _print_next(run, trials)


def _print_next(run: Run, trials: list[Trial]) -> None:
    files = best_files(run)
    console = get_console()
    if files and run.config.tune.verb == "train":
        console.result("try next:")
        console.result(f"  {command('train', files[0])}")
    elif files:
        console.result("try next:")
        console.result(f"  {command('compress', run.manifest.parents[0].path, '--recipe', files[0])}")
    elif run.state not in ("complete", "running"):
        console.result("try next:")
        console.result(f"  {command('tune', '--resume', run.path)}")


def _best_first(study: Study, trials: list[Trial]) -> list[Trial]:
    sign = -1.0 if study.directions[0] == "max" else 1.0
    ended = [trial for trial in trials if trial.state == "complete" and trial.values]
    others = [trial for trial in trials if trial.state != "complete" and trial.curve]
    ended.sort(key=lambda trial: sign * trial.values[0])
    others.sort(key=lambda trial: (-trial.epochs, sign * trial.curve[max(trial.curve)]))
    return [*ended, *others]


def _table(study: Study, trials: list[Trial]) -> tuple[list[str], list[list[str]]]:
    names = [dimension.name for dimension in study.space.dimensions]
    objectives = list(study.config.objectives)
    columns = ["trial", "state", *objectives, "epochs", "time", *(shorten(name, names) for name in names)]
    return columns, [_row(trial, names, len(objectives)) for trial in trials]


def _row(trial: Trial, names: list[str], objectives: int) -> list[str]:
    last = [trial.curve[max(trial.curve)]] if trial.curve else []
    values = [f"{value:.4g}" for value in trial.values or last]
    values += ["-"] * (objectives - len(values))
    point = [_cell(trial.point[name]) if name in trial.point else "-" for name in names]
    return [str(trial.number), trial.state, *values, str(trial.epochs), duration(trial.seconds), *point]


def _cell(value: Any) -> str:
    """As a config has it."""
    return f"{value:.3g}" if isinstance(value, float) else "null" if value is None else str(value)


def _counts(trials: list[Trial], asked: int) -> str:
    names = {"complete": "complete", "stopped": "stopped early", "nonfinite": "not finite"}
    words = []
    for state in ("complete", "stopped", "running", "nonfinite", "failed", "invalid"):
        number = sum(trial.state == state for trial in trials)
        if number:
            words.append(f"{number} {names.get(state, state)}")
    return f"{len(trials)} of {max(asked, len(trials))}: {', '.join(words) or 'none yet'}"


def _spent(trials: list[Trial], epochs: int) -> str:
    spent = sum(trial.seconds for trial in trials)
    saved = saved_seconds(trials, epochs)
    text = f"{duration(spent)} of work"
    return f"{text}, {duration(saved)} saved by stopping early" if saved else text
