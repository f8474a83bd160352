"""The search itself, without the machines: which trial comes next, whether one goes on, what came of it."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from scaledl.config import Config, ConfigError, Point, Space
from scaledl.console import get_console
from scaledl.run import Run
from scaledl.tune.hparams import write_hparams
from scaledl.tune.keeping import forget_weights
from scaledl.tune.records import trial_folder
from scaledl.tune.sampling import method_of, rule_of
from scaledl.tune.study import Study, Trial

_HOPELESS = 4
ALIVE = ("running", "complete")


class Decision(Enum):
    GO = "go"
    STOP = "stop"
    PAUSE = "pause"


class NoMore(Exception):
    """No further trial will come."""


@dataclass(frozen=True)
class Assignment:
    """A trial for some worker. `config` is whole and validated; `parent` a trial whose checkpoint it begins with."""

    number: int
    config: Config
    parent: int | None = None

    @property
    def folder(self) -> str:
        """Of the trial's run, relative to the search's."""
        return trial_folder(self.number)


@dataclass(frozen=True)
class Outcome:
    """How a trial ended. `state` is one of `scaledl.tune.study.ENDED`; `metrics` has every figure that was taken."""

    state: str
    metrics: Mapping[str, float]
    epochs: int = 0
    error: str = ""


class Search:
    """One search in its directory. Not thread-safe: one executor drives it."""

    def __init__(self, run: Run, config: Config, space: Space, study: Study, count: int) -> None:
        self.run, self.config, self.space, self.study, self.count = run, config, space, study, count
        self.first_objective, self._way = next(iter(config.objectives.items()))
        self.rule = rule_of(config.tune)
        self.began, self.began_at = time.monotonic(), time.time()
        self.before_seconds = run.manifest.wall_seconds
        self.busy_before = 0.0  # seconds of slots, of trials that ended in this start
        self.stopping = ""  # why no further trial begins
        own = study.own()
        self._waiting = [trial for trial in own if trial.state == "running"]  # of an earlier attempt, or paused
        self._made = len(own)
        self._points = iter(self._fixed_points())
        self.live: dict[int, _Live] = {}
        self._since_best = 0
        self._best = study.best()
        self.num_ended = sum(trial.state != "running" for trial in own)
        self._worked = any(trial.state in ("complete", "stopped") for trial in own)
        self._failures: list[str] = []
        self._recall(own)

    def _recall(self, own: list[Trial]) -> None:
        """Patience and target as they stood at the end of an earlier start."""
        best: list[Trial] = []
        for trial in sorted((t for t in own if t.state in ("complete", "stopped")), key=lambda t: t.ended or 0.0):
            best = self.study.best([*best, trial])
            self._count_patience(trial.number, trial.state, [t.number for t in best])
        values = [value for trial in own for value in (*trial.curve.values(), *trial.values[:1])]
        if any(map(self._reaches_target, values)):
            self._stop(f"tune.target: a trial has reached {self.first_objective} {self.config.tune.target:g}")

    # Where it stands

    @property
    def is_over(self) -> bool:
        needed = self._population if self.rule == "pbt" else self.count
        return not self._waiting and (bool(self.stopping) or self._made >= needed)

    @property
    def best_now(self) -> Trial | None:
        return self._best[0] if self._best else None

    @property
    def _population(self) -> int:
        return min(self.config.tune.population, self.count)

    def up(self) -> None:
        """The slots are there: from now on they should be busy."""
        self.began, self.began_at = time.monotonic(), time.time()

    @property
    def up_seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def busy_seconds(self) -> float:
        """Of slots, in which trials were in work."""
        return self.busy_before + sum(live.busy for live in self.live.values())

    def hopeless(self) -> str | None:
        """Why it makes no sense to go on: the first trials failed, all of them."""
        if self._worked or len(self._failures) < _HOPELESS:
            return None
        return f"the first {len(self._failures)} trials all failed, the last one with: {self._failures[-1]}"

    def failures(self) -> str:
        """The last thing that went wrong with a trial."""
        errors = [*self._failures, *(f"trial {t.number}: {t.error}" for t in self.study.own() if t.error)]
        return f"the last error was: {errors[-1]}" if errors else "all were stopped"

    def summary(self) -> str:
        """In a few words."""
        best = "" if self.best_now is None else f", the best: {self.first_objective} {self.best_now.values[0]:.4g}"
        return f"{self.num_ended} of {self.count} trials ended{best}"

    # What comes next

    def next(self) -> Assignment | None:
        """The next trial; None when this moment has none. Raises NoMore when no other will come."""
        if self.rule == "pbt":
            return self._next_of_population()
        if self._waiting:
            return self._resumed(self._waiting.pop(0))
        while True:
            self._check_limits()
            if not self.stopping and self._made < self.count and self.study.is_exhausted:
                self._stop(f"all {self._made} settings of tune.space were tried")
            if self.stopping or self._made >= self.count:
                raise NoMore
            assignment = self._new()
            if assignment is not None:
                return assignment

    def _check_limits(self) -> None:
        hours = self.config.tune.hours
        if not self.stopping and hours is not None and self.wall_seconds > 3600 * hours:
            self.stopping = f"tune.hours: {hours:g} h are over"

    @property
    def wall_seconds(self) -> float:
        return self.before_seconds + time.monotonic() - self.began

    def _next_of_population(self) -> Assignment | None:
        """Population based training (Jaderberg et al. 2017): who is furthest behind goes on, or is replaced."""
        self._check_limits()
        while self._made < self._population and not self.stopping:
            assignment = self._new()
            if assignment is not None:
                return assignment
        if not self._waiting:
            if self.live:
                return None
            raise NoMore
        last = min(self._waiting, key=lambda trial: (trial.epochs, trial.number))
        if self.live and min(live.epoch for live in self.live.values()) < last.epochs:
            return None  # others have to come up to it first, to be compared
        self._waiting.remove(last)
        donor = self._donor(last)
        if donor is None:
            return self._resumed(last)
        self._end_waiting(last, f"replaced by a trial that goes on from trial {donor.number}")
        seed = self.config.run.seed + self._made
        child = self._new(perturbed(donor.point, self.space, seed), donor.number, last.epochs)
        return child if child is not None else self._next_of_population()

    def _donor(self, trial: Trial) -> Trial | None:
        """A trial of the best quarter at this epoch, when this one is of the worst."""
        if self.stopping or self._made >= self.count:
            return None
        peers = [peer for peer in self.study.own() if trial.epochs in peer.curve and peer.state in ALIVE]
        sign = 1.0 if self._way == "max" else -1.0
        ranked = sorted(peers, key=lambda peer: sign * peer.curve[trial.epochs])
        quarter = max(len(ranked) // 4, len(ranked) > 1)
        if trial.number not in [peer.number for peer in ranked[:quarter]]:
            return None
        better = [
            peer
            for peer in ranked[-quarter:]
            if peer.state == "running"  # of one at its end nothing is left to go on with
            and sign * (peer.curve[trial.epochs] - trial.curve[trial.epochs]) > 0
            and (self.run.path / trial_folder(peer.number)).exists()
        ]
        return random.Random(self._made).choice(better) if better else None  # noqa: S311 - nothing secret

    def _end_waiting(self, trial: Trial, why: str) -> None:
        self.study.tell(trial.number, "stopped", epochs=trial.epochs, seconds=trial.seconds, error=why)
        self.num_ended += 1
        forget_weights(self.run.path / trial_folder(trial.number), self.config.tune.keep, best=False)

    def _new(self, fixed: Point | None = None, parent: int | None = None, epoch: int = 0) -> Assignment | None:
        number, point = self.study.ask(fixed if fixed is not None else next(self._points, None), parent=parent)
        self._made += 1
        try:
            config = self.space.apply(trial_base(self.config), point)
        except ConfigError as error:
            self.study.tell(number, "invalid", error=str(error))
            get_console().warn(f"trial {number} is no valid config and was left out: {error}")
            self.num_ended += 1
            self._failures.append(str(error))
            if (why := self.hopeless()) is not None:
                self._stop(why)
            return None
        return self._begin(_Live(number, config.trainer.epochs, epoch), config, parent)

    def _resumed(self, trial: Trial) -> Assignment:
        config = self.space.apply(trial_base(self.config), trial.point)
        live = _Live(trial.number, config.trainer.epochs, trial.epochs, trial.seconds, trial.attempts)
        live.reported = max(trial.curve, default=0)
        return self._begin(live, config, trial.parent)

    def _begin(self, live: _Live, config: Config, parent: int | None) -> Assignment:
        self.live[live.number] = live
        return Assignment(live.number, config, parent)

    def _fixed_points(self) -> list[Point]:
        """Points that are not the sampler's choice, those that were made already left out."""
        tune = self.config.tune
        default = [self.space.default_point(self.config)] if tune.default_first else []
        points = self.space.grid(self.config) if method_of(tune) == "grid" else default
        return points[self._made :]

    # What comes back

    def started(self, number: int, host: str = "") -> None:
        """A worker has begun, or begun again, with it."""
        live = self.live[number]
        live.host = host or live.host
        live.begin()

    def seen(self, number: int, host: str) -> None:
        self.live[number].host = host

    def report(self, number: int, epoch: int, metrics: Mapping[str, float]) -> Decision:
        """Take an epoch's figures of a running trial."""
        live = self.live[number]
        live.epoch, live.metrics = epoch, dict(metrics)
        value = metrics.get(self.first_objective)
        if value is None or not math.isfinite(value) or len(self.config.objectives) > 1:
            return Decision.GO
        if epoch <= live.reported:  # told before a worker died
            return Decision.GO
        live.reported = epoch
        stop = self.study.report(number, epoch, value)
        if self._reaches_target(value):
            self._stop(f"tune.target: trial {number} reached {self.first_objective} {value:.4g}")
        if self.rule == "pbt" and epoch % self.config.tune.perturb_epochs == 0 and epoch < live.epochs:
            return self._pause(number)
        if not stop or epoch >= live.epochs or epoch < self.config.tune.min_epochs:
            return Decision.GO
        self._end(number, Outcome("stopped", metrics, epoch))
        return Decision.STOP

    def _pause(self, number: int) -> Decision:
        live = self.live.pop(number)
        live.pause()
        self.busy_before += live.busy
        self.study.note(number, seconds=live.seconds, attempts=live.attempts, host=live.host)
        self._waiting.append(self.study.trials()[number])
        return Decision.PAUSE

    def end(self, number: int, outcome: Outcome) -> None:
        """A trial came to its end."""
        values = [outcome.metrics.get(name, math.nan) for name in self.config.objectives]
        if outcome.state == "complete" and not all(map(math.isfinite, values)):
            missing = next(n for n, v in zip(self.config.objectives, values, strict=True) if not math.isfinite(v))
            outcome = Outcome("nonfinite", outcome.metrics, outcome.epochs, f"{missing} is not a finite number")
        self._end(number, outcome, values if outcome.state == "complete" else None)

    def died(self, number: int, why: str) -> None:
        """Its process is gone; it will be started again."""
        live = self.live[number]
        live.attempts += 1
        live.pause()
        self.study.note(number, attempts=live.attempts, seconds=live.seconds)
        get_console().warn(f"trial {number}: {why}; it starts again from its last checkpoint (attempt {live.attempts})")

    def lost(self, number: int, why: str) -> None:
        """It died more often than `tune.retries` allows."""
        self._end(number, Outcome("failed", {}, self.live[number].epoch, why))

    def _end(self, number: int, outcome: Outcome, values: list[float] | None = None) -> None:
        live = self.live.pop(number)
        live.pause()
        self.busy_before += live.busy
        noted: dict[str, Any] = {"epochs": outcome.epochs, "seconds": live.seconds, "attempts": live.attempts}
        noted |= {"host": live.host, "metrics": {k: v for k, v in outcome.metrics.items() if math.isfinite(v)}}
        if outcome.error:
            noted["error"] = outcome.error[:2000]
        self.study.tell(number, outcome.state, values, **noted)
        write_hparams(self.run.path, self.study.trial(number), [*self.config.objectives])
        if outcome.state in ("failed", "nonfinite"):
            word = "its loss was not finite" if outcome.state == "nonfinite" else "failed"
            get_console().warn(f"trial {number} {word}, the search goes on: {outcome.error or 'no details'}")
        self._after(number, outcome)

    def _after(self, number: int, outcome: Outcome) -> None:
        self.num_ended += 1
        if outcome.state in ("complete", "stopped"):
            self._worked = True
        else:
            self._failures.append(outcome.error)
        before = {trial.number for trial in self._best}
        if outcome.state == "complete":
            self._best = self.study.best([*self._best, self.study.trial(number)])
            value = outcome.metrics[self.first_objective]
            if self._reaches_target(value):
                self._stop(f"tune.target: trial {number} reached {self.first_objective} {value:.4g}")
        best = [trial.number for trial in self._best]
        self._count_patience(number, outcome.state, best)
        if self.rule == "pbt" and outcome.state == "complete":
            return  # it may be another's beginning
        for ended in {*before, number}:
            forget_weights(self.run.path / trial_folder(ended), self.config.tune.keep, best=ended in best)

    def _count_patience(self, number: int, state: str, best: list[int]) -> None:
        if state in ("complete", "stopped"):
            self._since_best = 0 if number in best else self._since_best + 1
        patience = self.config.tune.patience
        if patience is not None and self._since_best >= patience:
            self._stop(f"tune.patience: {patience} trials in a row brought nothing better")

    def _reaches_target(self, value: float) -> bool:
        target = self.config.tune.target
        return target is not None and (value >= target if self._way == "max" else value <= target)

    def close(self) -> None:
        """When all is over: weights that only a going search needs."""
        best = [trial.number for trial in self.study.best()]
        for trial in self.study.own():
            if trial.state != "running":
                forget_weights(
                    self.run.path / trial_folder(trial.number), self.config.tune.keep, best=trial.number in best
                )

    def _stop(self, why: str) -> None:
        if not self.stopping:
            self.stopping = why
            get_console().info(f"no further trial begins: {why}")


class _Live:
    """A trial that is in work, of so many `epochs`. `before`: seconds of work in earlier starts of the search."""

    def __init__(self, number: int, epochs: int, epoch: int = 0, before: float = 0.0, attempts: int = 1) -> None:
        self.number, self.epochs, self.epoch, self.before, self.attempts = number, epochs, epoch, before, attempts
        self.host, self.reported = "", 0
        self.metrics: dict[str, float] = {}
        self._worked = 0.0
        self._since: float | None = None

    def begin(self) -> None:
        self._since = time.monotonic()

    def pause(self) -> None:
        self._worked, self._since = self.busy, None

    @property
    def busy(self) -> float:
        """Seconds of work in this start of the search."""
        return self._worked + (0.0 if self._since is None else time.monotonic() - self._since)

    @property
    def seconds(self) -> float:
        return self.before + self.busy


def trial_base(config: Config) -> Config:
    """What every trial has in common: the config without the search, under names that the trial's folder decides."""
    from scaledl.config import TuneConfig

    free = {"name": config.run.name, "id": None, "root": config.run.root, "seed": config.run.seed}
    run = config.run.model_copy(update=free)
    return config.model_copy(update={"tune": TuneConfig(), "run": run})


def perturbed(point: Point, space: Space, seed: int) -> Point:
    """A point beside this one: numbers times 0.8 or 1.25, choices to a neighbour (Jaderberg et al. 2017)."""
    rng = random.Random(seed)  # noqa: S311 - nothing secret
    moved: Point = {}
    for name, value in point.items():
        dimension = space.by_name[name]
        if dimension.kind == "choice":
            position = dimension.choices.index(value) + rng.choice((-1, 0, 1))
            moved[name] = dimension.choices[min(max(position, 0), len(dimension.choices) - 1)]
        else:
            moved[name] = dimension.nearest(value * rng.choice((0.8, 1.25)))
    return moved
