"""Learning-rate schedules as pure functions of the optimizer step: nothing to save, nothing to resume."""

from __future__ import annotations

import math
from collections.abc import Callable

from scaledl.config.schema import SchedulerConfig

Schedule = Callable[[int], float]

_ONE_CYCLE_WARMUP = 0.3
_ONE_CYCLE_START = 1 / 25


def build_schedule(config: SchedulerConfig, steps_per_epoch: int, total_steps: int) -> Schedule:
    """Return step (0-based) -> factor on the peak learning rate."""
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total_steps)
    floor = config.min_lr_ratio
    if config.name == "one_cycle":
        return lambda step: one_cycle(step, total_steps, warmup or round(_ONE_CYCLE_WARMUP * total_steps), floor)
    if config.name == "cosine":
        return lambda step: linear_warmup(step, warmup) * cosine(step - warmup, total_steps - warmup, floor)
    return lambda step: linear_warmup(step, warmup)


def linear_warmup(step: int, warmup: int) -> float:
    """Rise linearly to 1 over `warmup` steps; the first step already trains.

    >>> [linear_warmup(s, 4) for s in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return min((step + 1) / warmup, 1.0) if warmup else 1.0


def cosine(step: int, total: int, floor: float) -> float:
    """Fall from 1 to `floor` along half a cosine (Loshchilov and Hutter 2017); 1 before step 0."""
    progress = min(max(step, 0) / max(total, 1), 1.0)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def one_cycle(step: int, total: int, warmup: int, floor: float) -> float:
    """Rise from 1/25 to 1 over `warmup` steps and fall to `floor`, both along cosines (Smith 2018)."""
    if step < warmup:
        return 1 - (1 - _ONE_CYCLE_START) * cosine(step, warmup, 0.0)
    return cosine(step - warmup, total - warmup, floor)
