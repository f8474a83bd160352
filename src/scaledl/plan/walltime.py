"""From one measured rank to the wall time of a training in any layout. Pure arithmetic, in seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scaledl.config import Config
from scaledl.plan.layout import Layout
from scaledl.plan.measure import Measured


@dataclass(frozen=True)
class WallTime:
    """`step`: one optimizer step, `exchange` included. `total`: from the command to its result."""

    step: float
    exchange: float
    epoch: float
    total: float
    steps: int


def wall_time(config: Config, layout: Layout, measured: Measured, bandwidth: float | None) -> WallTime:
    """Args: `bandwidth`: bytes a second that a rank exchanges with the others; None where it is alone."""
    exchange = exchange_bytes(layout, measured.trainable_bytes) / bandwidth if bandwidth else 0.0
    step = measured.seconds["step"] + exchange
    steps_per_epoch = math.ceil(measured.samples["train"] / config.data.batch_size)
    validate = measured.seconds["validate"] / layout.world_size
    epoch = steps_per_epoch * step + validate
    steps = config.trainer.epochs * steps_per_epoch
    steps = min(steps, config.trainer.max_steps or steps)
    validations = math.ceil(steps / steps_per_epoch)
    total = measured.seconds["start"] + steps * step + validations * validate + measured.seconds["finish"]
    return WallTime(step, exchange, epoch, total, steps)


def exchange_bytes(layout: Layout, gradient_bytes: int) -> float:
    """Bytes that a rank sends in an optimizer step.

    An all-reduce in a ring sends each gradient twice, but for the share of one rank; ZeRO 1 and 2 split it into a
    reduce-scatter and an all-gather of the same volume, ZeRO 3 gathers the parameters once more (Rajbhandari et al.
    2020, section 7).

    >>> exchange_bytes(Layout(2, 2), 100), exchange_bytes(Layout(2, 2, 3), 100), exchange_bytes(Layout(), 100)
    (150.0, 225.0, 0.0)
    """
    times = 3 if layout.stage == 3 else 2
    return times * gradient_bytes * (layout.world_size - 1) / layout.world_size
