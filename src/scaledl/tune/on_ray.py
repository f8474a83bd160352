"""The only file that knows Ray Tune: its Tuner runs the trials of a search on the slots of a cluster.

Ray's own snapshots of an experiment are not used: the search's journal and its trials' checkpoints are on the disk
before Ray could write any, and a scheduler's memory, which a restored Tuner has lost, is the journal itself.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scaledl.distributed.ray import require_ray
from scaledl.tune.search import Assignment, Decision, NoMore, Outcome, Search
from scaledl.tune.slots import Slots

require_ray()

from ray import tune  # noqa: E402
from ray.tune import CheckpointConfig, FailureConfig, RunConfig, Stopper, TuneConfig, Tuner  # noqa: E402
from ray.tune.execution.placement_groups import PlacementGroupFactory  # noqa: E402
from ray.tune.progress_reporter import TrialProgressCallback  # noqa: E402
from ray.tune.schedulers import FIFOScheduler  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

ORDER, REPORT = "order", "report"
NEVER = "1e9"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
VARIABLES = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "8",
    "TUNE_GLOBAL_CHECKPOINT_S": NEVER,
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}


class Worker(tune.Trainable):
    """One slot: a process that keeps its imports and its data from trial to trial."""

    def setup(self, config: dict[str, Any]) -> None:
        for name in [name for name in os.environ if name.startswith("SLURM_") or name in RANK_VARIABLES]:
            del os.environ[name]  # of the job in which somebody started this Ray; a trial is no rank of it
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        from scaledl.tune.trial import Order, Session

        self._session = Session(Order.from_json(config[ORDER]))

    def step(self) -> dict[str, Any]:
        report = self._session.next()
        return {REPORT: json.dumps(report), "done": "state" in report}  # as text: Ray flattens mappings

    def cleanup(self) -> None:
        self._session.close()


def run_on_ray(
    search: Search,
    order_fn: Callable[[Assignment], str],
    slots: Slots,
    *,
    on_tick: Callable[[], None],
    stop_now: Callable[[], bool],
    scratch: Path | None = None,
    worker: type[tune.Trainable] = Worker,
) -> None:
    """Run the search's trials until no more come or `stop_now` says so; the driver is connected to a cluster.

    Args:
        order_fn: what a worker is told of an assignment.
        on_tick: called often, between events.
        scratch: a folder that goes away with the cluster, for what Ray writes and nobody reads.
    """
    bridge = _Bridge(search, order_fn, slots, on_tick, stop_now)
    retries = search.config.tune.retries
    with _variables({**VARIABLES, "TUNE_MAX_PENDING_TRIALS_PG": str(slots.count)}), _scratch(scratch) as folder:
        Tuner(
            tune.with_resources(worker, PlacementGroupFactory([{"CPU": slots.cpus, "GPU": slots.gpus}])),
            tune_config=TuneConfig(
                num_samples=2**31 - 1,  # the searcher says when it is enough
                search_alg=_Searcher(bridge),
                scheduler=_Scheduler(bridge),
                reuse_actors=True,
                trial_name_creator=lambda trial: f"t{trial.trial_id}",
                trial_dirname_creator=lambda trial: f"t{trial.trial_id}",
            ),
            run_config=RunConfig(
                name="search",
                storage_path=str(folder),
                checkpoint_config=CheckpointConfig(checkpoint_at_end=False),  # a trial's run has its own
                failure_config=FailureConfig(max_failures=retries),
                stop=_Stopper(bridge),
                callbacks=[_Events(bridge)],
                verbose=0,
                log_to_file=False,
            ),
        ).fit()


class _Bridge:
    """What Ray's hooks have in common: Ray's ids to the search's numbers, and who runs."""

    def __init__(
        self,
        search: Search,
        order_fn: Callable[[Assignment], str],
        slots: Slots,
        on_tick: Callable[[], None],
        stop_now: Callable[[], bool],
    ) -> None:
        self.search, self.order_fn, self.slots = search, order_fn, slots
        self.on_tick, self.stop_now = on_tick, stop_now
        self.numbers: dict[str, int] = {}  # of trials that are in work

    def __deepcopy__(self, memo: object) -> _Bridge:
        return self  # Ray copies its hooks; all of them mean this one search

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Elsewhere, ()  # and it writes them down for a restore, which does not happen

    def next(self, trial_id: str) -> dict[str, Any] | None:
        if len(self.numbers) >= self.slots.count:
            return None  # a trial is chosen when it can begin: so it knows all that came before
        assignment = self.search.next()
        if assignment is None:
            return None
        self.numbers[trial_id] = assignment.number
        return {ORDER: self.order_fn(assignment)}

    def result(self, trial_id: str, result: dict[str, Any]) -> str:
        number = self.numbers.get(trial_id)
        if number is None or self.stop_now():
            return FIFOScheduler.CONTINUE
        self.search.seen(number, result.get("hostname", ""))
        report = json.loads(result[REPORT])
        decision = self.search.report(number, report["epoch"], report["metrics"])
        if decision is Decision.GO:
            return FIFOScheduler.CONTINUE
        del self.numbers[trial_id]
        return FIFOScheduler.STOP

    def complete(self, trial_id: str, result: dict[str, Any] | None) -> None:
        number = self.numbers.pop(trial_id, None)
        report = json.loads(result[REPORT]) if result and REPORT in result else {}
        if number is None or result is None or "state" not in report:
            return  # stopped by us
        self.search.seen(number, result.get("hostname", ""))
        self.search.end(number, Outcome(report["state"], report["metrics"], report["epochs"], report["error"]))


class _Elsewhere:
    """What a bridge is in Ray's files."""


class _Searcher(Searcher):
    def __init__(self, bridge: _Bridge) -> None:
        super().__init__()
        self._bridge = bridge

    def suggest(self, trial_id: str) -> Any:
        try:
            return self._bridge.next(trial_id)
        except NoMore:
            # With trials in work it is too early to say so: one that dies or pauses may have to come again.
            return Searcher.FINISHED if not self._bridge.numbers else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if not error:
            self._bridge.complete(trial_id, result)

    def set_search_properties(self, *_: Any, **__: Any) -> bool:
        return True

    def get_state(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None: ...

    def save_to_dir(self, *_: Any, **__: Any) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...


class _Scheduler(FIFOScheduler):
    def __init__(self, bridge: _Bridge) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._bridge = bridge
        self._added: list[Any] = []

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._added.append(trial)  # anew when its worker has died
        _forget_ended(tune_controller._tune_controller)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return self._bridge.result(trial.trial_id, result)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The trial that came last: an idle worker takes it, and that of the one before goes on starting up.

        In the order of their coming it would take the older one and end its worker, and with short trials no second
        worker would ever be up.
        """
        self._added = [trial for trial in self._added if trial.status == trial.PENDING]
        return self._added[-1] if self._added else None


def _forget_ended(controller: Any) -> None:
    """Let go of trials that have ended and left their worker.

    Ray keeps 20 kB of each, and looks at all of them at every step.
    """
    ended = {
        trial for trial in controller.get_trials() if trial.is_finished() and trial not in controller._trial_to_actor
    }
    if ended:
        controller._trials[:] = [trial for trial in controller._trials if trial not in ended]
        for known in (controller._stopped_trials, controller._failed_trials, controller._trials_to_cache):
            known -= ended


class _Stopper(Stopper):
    def __init__(self, bridge: _Bridge) -> None:
        self._bridge = bridge

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._bridge.stop_now()


class _Events(TrialProgressCallback):
    """In the place of Ray's own callback of this kind, which prints, and keeps all trials that it has seen."""

    def __init__(self, bridge: _Bridge) -> None:
        self._bridge = bridge

    def on_trial_result(self, *_: Any, **__: Any) -> None: ...

    def on_trial_complete(self, *_: Any, **__: Any) -> None: ...

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = self._bridge.numbers.get(trial.trial_id)
        if number is not None:
            self._bridge.search.started(number)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = self._bridge.numbers.get(trial.trial_id)
        if number is not None and not self._bridge.stop_now():
            self._bridge.search.died(number, _why(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = self._bridge.numbers.pop(trial.trial_id, None)
        if number is not None and not self._bridge.stop_now():
            self._bridge.search.lost(number, _why(trial))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._bridge.on_tick()

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        trials.clear()  # else Ray lists those that failed, by names that nobody knows


def _why(trial: Any) -> str:
    """Why its process ended, on one line, from the text that Ray keeps beside the trial."""
    try:
        text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "its process died"
    last = _COLOURS.sub("", text.rpartition("Failure # ")[2])
    lines = [line.strip() for line in last.splitlines()[1:] if line.strip()]
    if "raised in its creation task" in last:
        return f"its process could not begin ({lines[-1][:300]})"
    if "RayActorError" in last or "actor died" in last or "ActorDied" in last:
        told = next((line for line in lines if line.startswith(("The actor", "Worker exit", "The node"))), "")
        return f"its process died ({told[:300]})" if told else "its process died"
    return lines[-1][:300] if lines else "its process failed"


@contextmanager
def _scratch(folder: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="scaledl-tune-", dir=folder, ignore_cleanup_errors=True) as made:
        yield Path(made)


@contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
