"""Learning-rate schedules as pure functions of the optimizer step: nothing to save, nothing to resume."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scaledl.config.registry import SCHEDULES
from scaledl.config.schema import SchedulerConfig

Schedule = Callable[[int], float]

_ONE_CYCLE_WARMUP = 0.3
_ONE_CYCLE_START = 1 / 25
_SLACK = 1e-9  # of a step: where an epoch ends is a product of floats


@dataclass(frozen=True)
class Course:
    """How long a training is, in optimizer steps; `floor` is the least factor."""

    steps_per_epoch: int
    total: int
    warmup: int
    floor: float

    @property
    def left(self) -> int:
        """Steps after the warm-up."""
        return self.total - self.warmup

    def epochs(self, step: int) -> float:
        """Epochs before this step."""
        return step / self.steps_per_epoch


def build_schedule(config: SchedulerConfig, steps_per_epoch: int, total_steps: int) -> Schedule:
    """Return step (0-based) -> factor on the peak learning rate. Warm-up comes before any schedule.

    The builder of a name gets the course and the keys of its name, and gives the factor of a step as if there were no
    warm-up; of `one_cycle` that is its rise.
    """
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total_steps)
    course = Course(steps_per_epoch, total_steps, warmup, config.min_lr_ratio)
    after: Schedule = SCHEDULES.resolve(config.name)(course, **config.settings())
    if config.name == "one_cycle":
        return after
    return lambda step: linear_warmup(step, warmup) * after(step)


def held(schedule: Schedule, start: int, factor: float) -> Schedule:
    """The schedule until step `start`, from which on the rate stays."""
    return lambda step: schedule(step) if step < start else factor


def build_constant(course: Course, **_: Any) -> Schedule:
    return lambda step: 1.0


def build_step(course: Course, *, step_epochs: float, gamma: float) -> Schedule:
    return lambda step: max(gamma ** int(course.epochs(step) / step_epochs + _SLACK), course.floor)


def build_multistep(course: Course, *, milestones: Sequence[float], gamma: float) -> Schedule:
    falls = sorted(milestones)
    return lambda step: max(gamma ** bisect_right(falls, course.epochs(step) + _SLACK), course.floor)


def build_exponential(course: Course, *, gamma: float) -> Schedule:
    return lambda step: max(gamma ** course.epochs(max(step - course.warmup, 0)), course.floor)


def build_cosine(course: Course) -> Schedule:
    return lambda step: cosine(step - course.warmup, course.left, course.floor)


def build_cosine_restarts(course: Course, *, restart_epochs: float, restart_factor: int) -> Schedule:
    first = restart_epochs * course.steps_per_epoch
    return lambda step: cosine_restarts(step - course.warmup, first, restart_factor, course.floor)


def build_one_cycle(course: Course) -> Schedule:
    warmup = course.warmup or round(_ONE_CYCLE_WARMUP * course.total)
    return lambda step: one_cycle(step, course.total, warmup, course.floor)


def build_polynomial(course: Course, *, power: float) -> Schedule:
    return lambda step: polynomial(step - course.warmup, course.left, power, course.floor)


def build_linear(course: Course) -> Schedule:
    return build_polynomial(course, power=1.0)


def build_inverse_sqrt(course: Course) -> Schedule:
    """Falls from the end of the warm-up on, as fast as that was long (Vaswani et al. 2017)."""
    unit = max(course.warmup, 1)
    return lambda step: max(math.sqrt(unit / max(step + 1, unit)), course.floor)


def linear_warmup(step: int, warmup: int) -> float:
    """Rise linearly to 1 over `warmup` steps; the first step already trains.

    >>> [linear_warmup(s, 4) for s in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return min((step + 1) / warmup, 1.0) if warmup else 1.0


def cosine(step: float, total: float, floor: float) -> float:
    """Fall from 1 to `floor` along half a cosine (Loshchilov and Hutter 2017); 1 before step 0."""
    progress = min(max(step, 0) / max(total, 1), 1.0)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def cosine_restarts(step: float, first: float, factor: int, floor: float) -> float:
    """Cosines that start anew, the first over `first` steps, each `factor` times longer than the one before.

    Stochastic gradient descent with warm restarts (Loshchilov and Hutter 2017).

    >>> [round(cosine_restarts(s, 2, 2, 0.0), 2) for s in range(7)]
    [1.0, 0.5, 1.0, 0.85, 0.5, 0.15, 1.0]
    """
    length, step = max(first, 1.0), max(step, 0) + _SLACK
    while step >= length and factor > 1:
        step, length = step - length, length * factor
    return cosine(max(step % length - _SLACK, 0.0), length, floor)


def one_cycle(step: int, total: int, warmup: int, floor: float) -> float:
    """Rise from 1/25 to 1 over `warmup` steps and fall to `floor`, both along cosines (Smith 2018)."""
    if step < warmup:
        return 1 - (1 - _ONE_CYCLE_START) * cosine(step, warmup, 0.0)
    return cosine(step - warmup, total - warmup, floor)


def polynomial(step: int, total: int, power: float, floor: float) -> float:
    """Fall from 1 to `floor` as a power of the share of steps that is left; 1 before step 0.

    >>> [polynomial(s, 4, 2.0, 0.0) for s in range(5)]
    [1.0, 0.5625, 0.25, 0.0625, 0.0]
    """
    progress = min(max(step, 0) / max(total, 1), 1.0)
    return floor + (1 - floor) * math.pow(1 - progress, power)


@dataclass
class Plateau:
    """The factor that falls when the validation loss no longer does: the one schedule with a memory.

    After more than `patience` epochs in a row without a lower loss than the best, the factor is multiplied by `gamma`,
    and the waiting begins anew.

    >>> plateau = Plateau(patience=1, gamma=0.1)
    >>> [round(plateau.after(loss), 3) for loss in (1.0, 0.9, 0.9, 0.95, 0.8, 0.8, 0.8)]
    [1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.01]
    """

    patience: int
    gamma: float
    floor: float = 0.0
    best: float = math.inf
    waited: int = 0
    factor: float = 1.0

    def after(self, loss: float) -> float:
        """The factor after an epoch with this validation loss."""
        self.waited = 0 if loss < self.best else self.waited + 1
        self.best = min(self.best, loss)
        if self.waited > self.patience:
            self.factor, self.waited = max(self.factor * self.gamma, self.floor), 0
        return self.factor
