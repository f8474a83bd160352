"""find: a learning rate, a batch size. Nothing is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaledl.config import Config
from scaledl.errors import UsageError

if TYPE_CHECKING:
    from scaledl.train.find_batch_size import Measured
    from scaledl.train.find_lr import LrRange


def find_lr(config: Config, *, low: float = 1e-6, high: float = 10.0, steps: int = 100) -> LrRange:
    """The learning-rate range test on a fresh model, in this process.

    Raises UsageError for a range that is none, and for DeepSpeed, which takes a training to begin.
    """
    if not 0 < low < high:
        raise UsageError(
            f"--from, --to: got {low:g} and {high:g}; allowed: numbers greater than 0, the first the smaller"
        )
    _check(config)
    from scaledl.data import build_data
    from scaledl.train.find_lr import find_lr as test
    from scaledl.train.start import find_start

    data = build_data(config.data, config.run.seed)
    return test(config, data, find_start(config, data.spec).model, low=low, high=high, steps=steps)


def find_batch_size(config: Config) -> list[Measured]:
    """Seconds of a step with growing micro-batches, on fresh models in this process. UsageError for DeepSpeed."""
    _check(config)
    from scaledl.data import build_data
    from scaledl.train.find_batch_size import find_batch_size as measure
    from scaledl.train.start import find_start

    data = build_data(config.data, config.run.seed)
    return measure(config, data, lambda: find_start(config, data.spec).model)


def _check(config: Config) -> None:
    if config.trainer.strategy == "deepspeed":
        raise UsageError(
            "trainer.strategy: got deepspeed; allowed with find: auto, ddp. It measures one process; what ZeRO needs "
            "of memory is what `scaledl plan` estimates"
        )
