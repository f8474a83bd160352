"""How many optimizer steps a training has."""

from __future__ import annotations

import math

from scaledl.config import Config
from scaledl.data import DataModule


def steps_per_epoch(config: Config, data: DataModule) -> int:
    """Optimizer steps of a pass over the training split."""
    return math.ceil(data.trained(config) / config.data.batch_size)


def total_steps(config: Config, steps_per_epoch: int) -> int:
    """Optimizer steps of the whole training."""
    steps = config.trainer.epochs * steps_per_epoch
    return min(steps, config.trainer.max_steps or steps)
