"""`run_search`: a search from its directory to its best config, over whatever machines there are."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from threading import Thread

from scaledl.config import Config, space_of
from scaledl.console import get_console
from scaledl.distributed.preemption import stop_flag
from scaledl.distributed.ray import RayCluster
from scaledl.errors import ScaledlError
from scaledl.run import Run
from scaledl.tune.board import Board
from scaledl.tune.directory import write_best
from scaledl.tune.place import ranks_of, ray_for, remove_remains
from scaledl.tune.records import trial_folder
from scaledl.tune.sampling import rule_of
from scaledl.tune.search import Assignment, Search
from scaledl.tune.slots import Slots
from scaledl.tune.study import Study
from scaledl.tune.watchdog import Watchdog


def run_search(
    run: Run,
    config: Config,
    count: int,
    *,
    address: str | None = None,
    source: Run | None = None,
    known: list[Run] | None = None,
    on_progress: Callable[[int], None] = lambda ended: None,
) -> Search:
    """Run the search in `run` to its end; what an earlier start of it did is kept.

    Args:
        count: trials in all.
        address: of a Ray cluster that is there already.
        source: the run that every trial compresses.
        known: earlier searches whose trials the sampler begins with.

    Raises:
        Preempted, Interrupted: stopped by a signal; the search can go on.
        ScaledlError: no trial worked, or the machines were lost.
    """
    space = space_of(config)
    study = Study(run.path, config, space)
    _take_known(study, known or [], run)
    search = Search(run, config, space, study, count)
    if not search.is_over:
        Thread(target=import_module, args=("scaledl.tune.on_ray",), daemon=True).start()  # while Ray comes up
        with ray_for(config, run.path, address=address) as (cluster, slots):
            stop_flag.raise_if_set("no trial had begun")
            _run(search, slots, cluster, source, on_progress)
    search.close()
    if not write_best(search):
        raise ScaledlError(f"no trial came to its end, so there is no best one; {search.failures()}")
    return search


def _take_known(study: Study, known: list[Run], run: Run) -> None:
    from scaledl.tune.study import read_study

    if study.trials():
        return
    for earlier in known:
        config = earlier.config
        found = read_study(earlier.path, config, space_of(config)).own()
        taken = study.add_known(found, earlier.label)
        get_console().info(f"{taken} of {len(found)} trials of {earlier.path} are known from the start")


def _run(
    search: Search, slots: Slots, cluster: RayCluster, source: Run | None, on_progress: Callable[[int], None]
) -> None:
    from scaledl.tune.on_ray import run_on_ray

    def last_words(problem: str) -> None:
        text = _lost(problem, search)
        get_console().error(text)
        search.run.finish("failed", error=text)
        remove_remains(cluster)

    def stop_now() -> bool:
        stop_flag.take_back()  # Ray Tune takes USR1 for itself when it begins
        return bool(stop_flag.signum is not None or dog.problem or search.hopeless())

    def tick() -> None:
        board.tick()
        on_progress(search.num_ended)

    with Watchdog(cluster, last_words) as dog, Board(search, slots.count) as board:
        run_on_ray(
            search,
            lambda assignment: _order(search, assignment, slots, source),
            slots,
            on_tick=tick,
            stop_now=stop_now,
            scratch=cluster.temp_dir,
        )
    stop_flag.raise_if_set(f"{search.summary()}; every trial that ended is kept")
    problem = dog.problem or search.hopeless()
    if problem:
        raise ScaledlError(_lost(problem, search))


def _lost(problem: str, search: Search) -> str:
    return f"{problem}. {search.summary()}; every trial that ended is kept: scaledl tune --resume {search.run.path}"


def _order(search: Search, assignment: Assignment, slots: Slots, source: Run | None) -> str:
    from scaledl.tune.trial import Order

    path = search.run.path.absolute()
    ranks = ranks_of(search.config)
    parent = "" if assignment.parent is None else str(path / trial_folder(assignment.parent))
    return Order(
        search=str(path),
        folder=assignment.folder,
        number=assignment.number,
        config=assignment.config.model_dump(mode="json"),
        verb=search.config.tune.verb,
        objectives=tuple(search.config.objectives),
        source="" if source is None else str(source.path.absolute()),
        parent=parent,
        lockstep=rule_of(search.config.tune) == "pbt",
        threads=max(1, int(slots.cpus) // ranks),
        ranks=ranks,
    ).to_json()
