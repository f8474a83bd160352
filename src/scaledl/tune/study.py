"""What a search knows: an Optuna study in a journal, which is synced line by line and outlives every process."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scaledl.config import Config, Point, Space
from scaledl.config.space import flat_values
from scaledl.config.tree import from_plain
from scaledl.errors import UsageError, require_extra
from scaledl.run import storage_errors
from scaledl.tune.sampling import (
    build_pruner,
    build_sampler,
    distribution,
    from_label,
    method_of,
    quiet,
    seed_of,
    suggest,
    to_label,
)

if TYPE_CHECKING:
    import optuna
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial
    from optuna.trial import Trial as Asked

JOURNAL = "study.journal"
NAME = "scaledl"
OPTUNA_WAYS: dict[str, Literal["maximize", "minimize"]] = {"max": "maximize", "min": "minimize"}
ENDED = ("complete", "stopped", "nonfinite", "failed", "invalid")


@dataclass(frozen=True)
class Trial:
    """One trial as the journal has it.

    Attributes:
        state: running, complete, stopped (by the scheduler), nonfinite (its loss), failed, invalid (no such config).
        point: the searched keys that applied, and their values.
        values: one for each objective, of a complete trial.
        curve: epoch, from 1 -> first objective, where trials are watched while they run.
        seconds: of work, over all its attempts.
    """

    number: int
    state: str
    point: Point
    values: tuple[float, ...] = ()
    curve: Mapping[int, float] = field(default_factory=dict)
    epochs: int = 0
    seconds: float = 0.0
    attempts: int = 1
    error: str = ""
    host: str = ""
    parent: int | None = None
    started: float = 0.0
    ended: float | None = None
    extra: Mapping[str, float] = field(default_factory=dict)


def saved_seconds(trials: Iterable[Trial], epochs: int) -> float:
    """Work that was not done because trials were stopped early, each at the pace of its own epochs."""
    stopped = (trial for trial in trials if trial.state == "stopped" and trial.epochs)
    return sum(trial.seconds / trial.epochs * (epochs - trial.epochs) for trial in stopped)


class Study:
    """Asks and tells. One process writes at a time; others may read."""

    def __init__(self, folder: Path, config: Config, space: Space, *, readonly: bool = False) -> None:
        require_extra("optuna", "tune")
        import optuna
        from optuna.storages import JournalStorage

        from scaledl.tune.journal import Journal, mend
        from scaledl.tune.untried import Tried

        self.path = folder / JOURNAL
        self.config, self.space = config, space
        self._flat = flat_values(from_plain(config, "config"))
        if not readonly:
            mend(self.path)
        self._journal = Journal(self.path)
        with self._writing():
            storage = JournalStorage(self._journal)
            if readonly:
                self._study = optuna.load_study(storage=storage, study_name=NAME)
            else:
                self._study = optuna.create_study(
                    storage=storage,
                    study_name=NAME,
                    directions=[OPTUNA_WAYS[way] for way in config.objectives.values()],
                    load_if_exists=True,
                    pruner=build_pruner(config),
                )
            if not readonly and "scaledl" not in self._study.user_attrs:
                self._study.set_metric_names(list(config.objectives))
                self._study.set_user_attr(
                    "scaledl", {"space": dict(space.describe()), "search": method_of(config.tune)}
                )
        self._live: dict[int, Asked] = {}
        self._tried = Tried(space, self._flat)
        if not readonly:
            for trial in self.own():
                self._tried.add(trial.point)
            self._finish_asking()

    @property
    def optuna(self) -> optuna.Study:
        return self._study

    @property
    def directions(self) -> tuple[str, ...]:
        return tuple(self.config.objectives.values())

    def ask(self, fixed: Point | None = None, *, parent: int | None = None) -> tuple[int, Point]:
        """A new trial: its number and its point; of `fixed` those values that the space has."""
        with self._writing():
            if fixed is not None:
                by_name = self.space.by_name
                stored = {name: to_label(by_name[name], value) for name, value in fixed.items() if name in by_name}
                self._study.enqueue_trial(stored, user_attrs={} if parent is None else {"parent": parent})
            self._study.sampler = self._sampler(len(self._study.get_trials(deepcopy=False)))
            trial = self._study.ask()
            point = suggest(trial, self.space, self._flat)
            self._tried.add(point)
        self._live[trial.number] = trial
        return trial.number, point

    def _sampler(self, number: int) -> BaseSampler:
        from scaledl.tune.untried import UntriedSampler

        seed = seed_of(self.config.run.seed, number)
        return UntriedSampler(build_sampler(self.config, number), self.space, self._tried, seed)

    @property
    def is_exhausted(self) -> bool:
        """Whether all settings that the space has were tried."""
        return self._tried.completion({}, random.Random(0)) is None  # noqa: S311 - nothing secret

    def _finish_asking(self) -> None:
        """Trials that were being asked for when an earlier start was killed get the rest of their point."""
        with self._writing():
            for frozen in self._study.get_trials(deepcopy=False):
                if frozen.state.is_finished():
                    continue
                point = self._read(frozen).point
                if frozen.state.name == "WAITING" or set(point) != set(self._active(point)):
                    self._study.sampler = self._sampler(frozen.number)
                    trial = self._study.ask() if frozen.state.name == "WAITING" else self._again(frozen)
                    self._tried.add(suggest(trial, self.space, self._flat))
                    self._live[trial.number] = trial

    def note(self, number: int, **attributes: Any) -> None:
        """Keep something about a live trial."""
        with self._writing():
            for name, value in attributes.items():
                self._trial(number).set_user_attr(name, value)

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Take the first objective after an epoch; true when the trial should stop here."""
        trial = self._trial(number)
        with self._writing():
            trial.report(value, epoch)
            return bool(trial.should_prune())

    def tell(self, number: int, state: str, values: Sequence[float] | None = None, **attributes: Any) -> None:
        """End a trial."""
        from optuna.trial import TrialState

        assert state in ENDED, state
        known = {"complete": TrialState.COMPLETE, "failed": TrialState.FAIL, "invalid": TrialState.FAIL}
        with self._writing():
            self.note(number, outcome=state, ended=time.time(), **attributes)
            # A loss that was not finite counts as stopped, so the sampler learns to keep away from there.
            self._study.tell(self._trial(number), values, state=known.get(state, TrialState.PRUNED))
        self._live.pop(number, None)

    def add_known(self, trials: Sequence[Trial], source: str) -> int:
        """Lay ended trials of another search into this one, as far as its space holds them; how many."""
        from optuna.trial import TrialState, create_trial

        taken = 0
        for trial in trials:
            names = set(self._active(trial.point))
            fits = set(trial.point) == names and all(self.space.by_name[n].holds(trial.point[n]) for n in names)
            if not fits or trial.state != "complete" or len(trial.values) != len(self.directions):
                continue
            stored = {name: to_label(self.space.by_name[name], value) for name, value in trial.point.items()}
            with self._writing():
                self._study.add_trial(
                    create_trial(
                        state=TrialState.COMPLETE,
                        params=stored,
                        distributions={name: distribution(self.space.by_name[name]) for name in stored},
                        values=list(trial.values),
                        user_attrs={"from": f"{source}#{trial.number}", "outcome": "complete"},
                    )
                )
            taken += 1
        return taken

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with quiet(), storage_errors(self.path, "journal of the search"), self._journal.together():
            yield

    def _active(self, point: Point) -> list[str]:
        return [d.name for d in self.space.dimensions if d.active(point, self._flat)]

    def _trial(self, number: int) -> Asked:
        if number not in self._live:
            from optuna.samplers import RandomSampler

            self._study.sampler = RandomSampler()  # has nothing to prepare for a trial whose point is known
            self._live[number] = self._again(self._study.get_trials(deepcopy=False)[number])
        return self._live[number]

    def _again(self, frozen: FrozenTrial) -> Asked:
        from optuna.trial import Trial as Asked

        return Asked(self._study, frozen._trial_id)

    def trials(self) -> list[Trial]:
        """All trials, by number, those of earlier searches included (`known` tells them apart)."""
        with quiet():
            return [self._read(frozen) for frozen in self._study.get_trials(deepcopy=False)]

    def trial(self, number: int) -> Trial:
        """One of them."""
        return self._read(self._study.get_trials(deepcopy=False)[number])

    def own(self) -> list[Trial]:
        """The trials of this search itself."""
        with quiet():
            return [self._read(f) for f in self._study.get_trials(deepcopy=False) if "from" not in f.user_attrs]

    def _read(self, frozen: FrozenTrial) -> Trial:
        attributes = frozen.user_attrs
        by_name = self.space.by_name
        point = {
            dimension.name: from_label(by_name[dimension.name], frozen.params[dimension.name])
            for dimension in self.space.dimensions
            if dimension.name in frozen.params
        }
        curve = {epoch: value for epoch, value in sorted(frozen.intermediate_values.items()) if math.isfinite(value)}
        started = frozen.datetime_start
        return Trial(
            frozen.number,
            attributes.get("outcome", "running") if frozen.state.is_finished() else "running",
            point,
            tuple(frozen.values or ()) if frozen.state.name == "COMPLETE" else (),
            curve,
            int(attributes.get("epochs", max(curve, default=0))),
            float(attributes.get("seconds", 0.0)),
            int(attributes.get("attempts", 1)),
            str(attributes.get("error", "")),
            str(attributes.get("host", "")),
            attributes.get("parent"),
            started.timestamp() if isinstance(started, datetime) else 0.0,
            attributes.get("ended"),
            attributes.get("metrics", {}),
        )

    def best(self, among: Sequence[Trial] | None = None) -> list[Trial]:
        """The best complete trial; of several objectives the front that no other trial beats in all."""
        trials = sorted(self.own() if among is None else among, key=lambda trial: trial.number)
        complete = [trial for trial in trials if trial.state == "complete"]
        signs = [1.0 if way == "max" else -1.0 for way in self.directions]
        scores = {trial.number: [sign * v for sign, v in zip(signs, trial.values, strict=True)] for trial in complete}
        if len(signs) == 1:
            return sorted(complete, key=lambda trial: (-scores[trial.number][0], trial.number))[:1]
        return [
            trial for trial in complete if not any(_beats(other, scores[trial.number]) for other in scores.values())
        ]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True)) and any(a > b for a, b in zip(one, other, strict=True))


def read_study(folder: Path, config: Config, space: Space) -> Study:
    """The study of a search that may be running. Raises UsageError where there is none, or a damaged one."""
    if not (folder / JOURNAL).exists():
        raise UsageError(f"{folder} holds no search: no {JOURNAL} in it")
    try:
        return Study(folder, config, space, readonly=True)
    except KeyError as error:
        raise UsageError(f"{folder} has not begun: no search in its {JOURNAL} yet") from error
    except ValueError as error:
        raise UsageError(f"{folder / JOURNAL} is damaged; going on with the search mends it: --resume") from error
