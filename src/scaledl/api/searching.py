"""The verb that searches: tune."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from scaledl.api.results import reported_attempt
from scaledl.config import Config, replace, space_of
from scaledl.config.shortened import shortened
from scaledl.console import get_console
from scaledl.errors import UsageError, require_extra
from scaledl.run import Run
from scaledl.tune.default import default_space
from scaledl.tune.directory import best_files, find_search, open_search
from scaledl.tune.place import check_here
from scaledl.tune.sampling import check_search


def tune(
    config: Config,
    *,
    address: str | None = None,
    source: Run | None = None,
    warm_start: Sequence[str] = (),
    confirmed: bool = False,
    on_progress: Callable[[int], None] = lambda ended: None,
) -> Run:
    """Search the space in `config.tune`; a fixed run.id goes on with a search that is there.

    Args:
        address: HOST:PORT of a Ray cluster that runs, or auto; by default one is started for this search.
        source: the complete run that every trial compresses, with `tune.verb: compress`.
        warm_start: earlier searches whose complete trials the sampler knows from the start.
        confirmed: a grid of thousands of trials is meant.
        on_progress: called with the number of trials that have ended, each time it changes.

    Raises:
        UsageError: a space that is empty or does not fit the search, fewer resources than one trial needs, the id of
            another search.
        Preempted, Interrupted: stopped by a signal; what ended is kept.
        ScaledlError: every trial failed, or the machines were lost.
    """
    for module in ("ray", "optuna"):
        require_extra(module, "tune")
    config = with_space(shortened(config))
    count = check_search(config, space_of(config), confirmed=confirmed)
    if (config.tune.verb == "compress") != (source is not None):
        raise UsageError("tune.verb: compress needs a run to compress, and train takes none")
    known = [_comparable(find_search(ref, Path(config.run.root)), config) for ref in warm_start]
    if address is None:
        check_here(config)
    run = open_search(config, source=source)
    if run.state == "complete" and run.manifest.metrics.get("trials", 0) >= count:
        get_console().info(f"{run.path}: already complete")
        return run
    from scaledl.tune.run import run_search

    with reported_attempt(run, config):
        get_console().info(f"search {run.path}")
        search = run_search(run, config, count, address=address, source=source, known=known, on_progress=on_progress)
        names = [path.relative_to(run.path).as_posix() for path in best_files(run)]
        if names:
            run.record(*names)
        best = search.study.best()
        metrics = {str(n): v for n, v in zip(config.objectives, best[0].values, strict=True)} if best else {}
        run.finish("complete", error=None, **metrics, trials=float(search.num_ended))
    return run


def _comparable(earlier: Run, config: Config) -> Run:
    """An earlier search whose values mean the same."""
    theirs, ours = (", ".join(f"{n} {w}" for n, w in c.objectives.items()) for c in (earlier.config, config))
    if theirs != ours:
        raise UsageError(f"--warm-start: {earlier.path} was a search of {theirs}, this is one of {ours}")
    return earlier


def with_space(config: Config) -> Config:
    """The config with a space: its own, or a default one, which is said."""
    if config.tune.space:
        return config
    space = default_space(config)
    if not space:
        raise UsageError("tune.space: empty, and there is no default for this recipe; name what to search")
    config = replace(config, {"tune": {**config.tune.model_dump(), "space": space}})
    text = "; ".join(f"{name}: {what}" for name, what in space_of(config).describe())
    get_console().info(f"no tune.space in the config: searching {text}")
    return config
