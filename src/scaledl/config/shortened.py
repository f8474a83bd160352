"""`trainer.fast_dev_run`: what it stands for."""

from __future__ import annotations

from typing import Any

from .load import replace
from .schema import Config


def shortened(config: Config) -> Config:
    """One epoch of a few batches, in place of what the config says of epochs and limits, where it asks for that.

    >>> short = shortened(Config.model_validate({"trainer": {"fast_dev_run": 2}}))
    >>> short.trainer.epochs, short.trainer.limit_train_batches
    (1, 2)
    """
    if not config.trainer.fast_dev_run:
        return config
    batches = int(config.trainer.fast_dev_run)
    limits: dict[str, Any] = {f"trainer.limit_{split}_batches": batches for split in ("train", "val", "test")}
    warmup = min(config.scheduler.warmup_epochs, 1.0)
    return replace(config, {**limits, "trainer.epochs": 1, "scheduler.warmup_epochs": warmup})
