"""What a search has found so far, read once for its page."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as with_fields
from functools import cached_property

from scaledl.config import space_of
from scaledl.config.errors import show
from scaledl.config.figures import figure_of
from scaledl.config.space import Dimension, flat_values, shorten
from scaledl.config.tree import from_plain
from scaledl.errors import ScaledlError, UsageError
from scaledl.report import units
from scaledl.run import Run
from scaledl.tune.records import epochs_until, trial_folder
from scaledl.tune.study import JOURNAL, Study, Trial, read_study


@dataclass(frozen=True)
class Objective:
    """One figure that is to be best. In pictures shares are per cent."""

    name: str
    way: str

    @property
    def label(self) -> str:
        return f"{self.name.replace('_', ' ')}, %" if self._is_share else self.name.replace("_", " ")

    @property
    def _is_share(self) -> bool:
        found = figure_of(self.name)
        return found is not None and found.is_share

    def shown(self, value: float) -> float:
        """As pictures show it."""
        return 100 * value if self._is_share else value

    def text(self, value: float) -> str:
        return units.metric(self.name, value)

    def cost(self, value: float) -> float:
        """Less is better."""
        return -value if self.way == "max" else value


class Findings:
    """The trials of a search, its space and what is best. Trials of earlier searches that it knows are left out."""

    def __init__(self, run: Run, study: Study) -> None:
        self.run, self.study = run, study
        self.config, self.space = study.config, study.space
        self.objectives = [Objective(name, way) for name, way in self.config.objectives.items()]
        self.trials = study.own()
        if len(self.objectives) > 1:  # nobody is stopped early then, and the journal has no curves
            self.trials = [self._with_curve(trial) for trial in self.trials]
        self.num_known = len(study.trials()) - len(self.trials)
        self.best = study.best()
        self._front = {trial.number for trial in self.best}

    def _with_curve(self, trial: Trial) -> Trial:
        """With the first objective after every epoch, as the trial's own run has it."""
        record = self.run.path / trial_folder(trial.number) / "metrics.jsonl"
        name = next(iter(self.config.objectives))
        curve = {epoch: metrics[name] for epoch, metrics in epochs_until(record, sys.maxsize) if name in metrics}
        return with_fields(trial, curve={epoch: value for epoch, value in curve.items() if math.isfinite(value)})

    @property
    def first(self) -> Objective:
        return self.objectives[0]

    def is_best(self, trial: Trial) -> bool:
        return trial.number in self._front

    @cached_property
    def complete(self) -> list[Trial]:
        """By the first objective, best first."""
        found = [t for t in self.trials if t.state == "complete" and all(map(math.isfinite, t.values))]
        return sorted(found, key=lambda trial: (self.first.cost(trial.values[0]), trial.number))

    @cached_property
    def rank(self) -> dict[int, int]:
        """Number of a complete trial -> its place, from 0."""
        return {trial.number: place for place, trial in enumerate(self.complete)}

    @cached_property
    def ranked(self) -> list[Trial]:
        """All trials: the best and other complete ones, then those that came farthest."""
        done = sorted(self.complete, key=lambda trial: not self.is_best(trial))
        seen = {trial.number for trial in done}
        others = [trial for trial in self.trials if trial.number not in seen]
        return [*done, *sorted(others, key=self._behind)]

    def _behind(self, trial: Trial) -> tuple[bool, int, float, int]:
        last = last_value(trial)
        cost = math.inf if last is None else self.first.cost(last)
        return last is None, -trial.epochs, cost, trial.number

    @cached_property
    def own_values(self) -> dict[str, object]:
        """What the config itself says, by names of the space."""
        flat = flat_values(from_plain(self.config, "config"))
        return {d.name: flat[d.keys[0]] for d in self.space.dimensions if d.keys[0] in flat}

    def changes(self, trial: Trial) -> dict[str, object]:
        """Keys in which it differs from the config."""
        own = self.own_values
        return {name: value for name, value in trial.point.items() if name not in own or own[name] != value}

    def short(self, dimension: Dimension) -> str:
        return shorten(dimension.name, [other.name for other in self.space.dimensions])


def read_findings(run: Run) -> Findings | str:
    """The findings, or in words why there are none."""
    if not (run.path / JOURNAL).exists():
        return "No trial has begun."
    try:
        config = run.config
        return Findings(run, read_study(run.path, config, space_of(config)))
    except UsageError as error:  # without Optuna, or with a config of another version
        return f"The trials cannot be shown: {error}"
    except ScaledlError:
        raise
    except (ValueError, LookupError, TypeError, AssertionError):  # whatever stands in it, Optuna did not write it
        return f"{JOURNAL} is damaged and was left out."


def last_value(trial: Trial) -> float | None:
    """The first objective at its end, or as far as it came."""
    if trial.values:
        return trial.values[0]
    return trial.curve[max(trial.curve)] if trial.curve else None


def value_text(value: object) -> str:
    """A value of a searched key, short enough for a cell.

    >>> value_text(0.000123456), value_text(64), value_text("adamw"), value_text([32, 64])
    ('0.0001235', '64', 'adamw', '[32, 64]')
    """
    if isinstance(value, float):
        return f"{value:.4g}"
    return value[:40] if isinstance(value, str) else show(value, 40)


def spread(items: Sequence[Trial], limit: int) -> list[Trial]:
    """At most `limit` of them: the first few, and the rest evenly."""
    if len(items) <= limit:
        return list(items)
    first = items[: limit // 4]
    rest = items[limit // 4 :]
    count = limit - len(first)
    return [*first, *(rest[i * len(rest) // count] for i in range(count))]
