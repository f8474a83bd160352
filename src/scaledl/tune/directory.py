"""A search's directory: a run of its own, which a second command of the same search goes on with."""

from __future__ import annotations

from pathlib import Path

import yaml

from scaledl.config import FREE_KEYS, Config, changed_keys, describe_changes, dump_yaml
from scaledl.console import get_console
from scaledl.errors import UsageError
from scaledl.run import Run, atomic_write, default_id, find_run, list_runs
from scaledl.tune.search import Search, trial_base
from scaledl.tune.study import JOURNAL

BEST, FRONT = "best.yaml", "front"
# What may change between two starts of a search: how long, on what, how patiently; never what is compared with what.
_MAY_CHANGE = ("trials", "patience", "target", "hours", "retries", "cpus", "gpus", "keep")
_FREE = tuple(key for key in FREE_KEYS if key != "tune.") + tuple(f"tune.{key}" for key in _MAY_CHANGE)


def open_search(config: Config, *, source: Run | None = None) -> Run:
    """The directory of this search: that of its id, if it is there, else a new one.

    Raises UsageError when what is there is another search.
    """
    name = config.run.name or f"{config.model.family}-{config.data.word}"
    id = default_id(config)
    parents = () if source is None else (source.as_parent(),)
    run = Run.open_or_create(Path(config.run.root), name, id, kind="tune", config=config, parents=parents)
    changed = changed_keys(run.config, config, ignore=_FREE)
    if changed:
        raise UsageError(
            f"{run.path} is a search of another space or with other settings; changed: {describe_changes(changed)}. "
            "Its trials cannot be compared with new ones: restore these keys, give --id for a search of its own, or "
            f"begin with what it knows: --warm-start {run.path}"
        )
    if run.config.tune != config.tune:
        run.update(config=config)
    return run


def unfinished_search(target: str | None, root: Path, name: str | None) -> Run:
    """The search that --resume means. Raises UsageError."""
    if target is not None:
        return find_run(target, root, kinds=("tune",), status=None)
    for run in list_runs(root):
        if run.kind == "tune" and run.state not in ("complete", "running") and name in (None, run.name):
            return run
    of_name = f" of {name}" if name else ""
    raise UsageError(f"--resume: no unfinished search{of_name} in {root}/; `scaledl runs` lists what is there")


def find_search(target: str | None, root: Path) -> Run:
    """The search that --show means: by default the newest."""
    if target is not None:
        run = find_run(target, root, kinds=("tune",), status=None)
    else:
        newest = next((run for run in list_runs(root) if run.kind == "tune"), None)
        if newest is None:
            raise UsageError(f"--show: no search in {root}/; begin one: scaledl tune --trials 64")
        run = newest
        get_console().info(f"no search given: showing the newest, {run.path}")
    if not (run.path / JOURNAL).exists():
        raise UsageError(f"{run.path} has not begun: no {JOURNAL} in it yet")
    return run


def write_best(search: Search) -> list[Path]:
    """The best config as YAML for `scaledl train`; of a front one file each. Returns the files, best first."""
    best = search.study.best()
    files = []
    several = len(search.config.objectives) > 1
    for trial in best:
        config = search.space.apply(trial_base(search.config), trial.point)
        values = zip(search.config.objectives, trial.values, strict=True)
        head = "# " + ", ".join(f"{name} {value:.6g}" for name, value in values)
        head += f": trial {trial.number} of {search.run.path}\n"
        path = search.run.path / (f"{FRONT}/trial-{trial.number:04d}.yaml" if several else BEST)
        text = _for_training(config) if search.config.tune.verb == "train" else _recipe(config)
        atomic_write(path, head + text, "best config")
        files.append(path)
    return files


def _for_training(config: Config) -> str:
    """As YAML, without what belongs to one run or to the search."""
    plain = yaml.safe_load(dump_yaml(config))
    plain.pop("tune")
    plain["run"].pop("id")
    plain["run"].pop("root")
    if plain["run"]["name"] is None:
        plain["run"].pop("name")
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110)


def best_files(run: Run) -> list[Path]:
    """The configs that a search has left."""
    best = run.path / BEST
    return [best] if best.exists() else sorted((run.path / FRONT).glob("trial-*.yaml"))


def _recipe(config: Config) -> str:
    """As YAML for `scaledl compress --recipe`."""
    stages = yaml.safe_load(dump_yaml(config))["compress"]["stages"]
    return yaml.safe_dump({"stages": stages}, sort_keys=False, allow_unicode=True, width=110)
