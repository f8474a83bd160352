"""Learning-rate range test: a rate that rises from step to step, until the loss explodes (Smith 2017)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from scaledl.config import Config
from scaledl.data import DataModule
from scaledl.models.structure import Model
from scaledl.train.rehearsal import Rehearsal

SMOOTHING = 0.9  # of the loss, in the exponential average
EXPLODED = 4.0  # times the lowest loss
_SPAN = 0.05  # of the test, to either side, over which a slope is taken
_BEGIN = 0.1  # of the test, in which an average is of so few losses that it jumps


@dataclass(frozen=True)
class LrRange:
    """Rates and the smoothed losses that they led to. `suggestion` is None where no rate lowered the loss."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float | None

    @property
    def lowest(self) -> int:
        """Where the loss is lowest."""
        return min(range(len(self.losses)), key=self.losses.__getitem__)


def find_lr(
    config: Config, data: DataModule, model: Model, *, low: float = 1e-6, high: float = 10.0, steps: int = 100
) -> LrRange:
    """Train `model` for up to `steps` steps of `data.batch_size` at rates from `low` to `high`, which ruins it."""
    rehearsal = Rehearsal(config, data, model)
    micro_batches = rehearsal.batches(config.data.batch_size // config.trainer.accumulate)

    def step(lr: float) -> float:
        return rehearsal.step(list(islice(micro_batches, config.trainer.accumulate)), lr)

    rates = [low * (high / low) ** (number / (steps - 1)) for number in range(steps)]
    losses = list(smoothed_losses(rates, step))
    return LrRange(tuple(rates[: len(losses)]), tuple(losses), steepest(rates, losses))


def smoothed_losses(rates: Sequence[float], step: Callable[[float], float]) -> Iterator[float]:
    """Exponential averages of the losses of all steps, corrected for their start, until they explode."""
    average, lowest = 0.0, math.inf
    for number, rate in enumerate(rates, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * step(rate)
        smoothed = average / (1 - SMOOTHING**number)
        if not smoothed < EXPLODED * lowest:  # NaN, too
            return
        lowest = min(lowest, smoothed)
        yield smoothed


def steepest(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """The rate at which the loss falls fastest over the logarithm of the rate, before its lowest point.

    >>> steepest([1e-4, 1e-3, 1e-2, 1e-1, 1.0], [2.3, 2.2, 1.2, 1.0, 3.0])
    0.01
    >>> steepest([1e-4, 1e-3, 1e-2], [1.0, 1.1, 5.0])
    """
    span, begin = max(1, round(_SPAN * len(rates))), round(_BEGIN * len(rates))
    lowest = min(range(len(losses)), key=losses.__getitem__, default=0)

    def slope(number: int) -> float:
        first, last = max(number - span, begin), min(number + span, lowest)
        return (losses[last] - losses[first]) / (last - first)

    return rates[min(range(begin, lowest), key=slope)] if lowest > begin else None
