"""Callbacks of one's own, or of a library, that the config names: every rank makes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import nn

from scaledl.config import Config
from scaledl.config.imported import import_named
from scaledl.config.schema import CallbackConfig
from scaledl.console import get_console
from scaledl.errors import UsageError
from scaledl.tasks.own_steps import brings_steps

# Of Lightning: what a training does by itself, or cannot have, and what to use instead.
_INSTEAD: dict[str, str] = {
    "StochasticWeightAveraging": "trainer.swa_start averages weights",
    "WeightAveraging": "trainer.ema_decay averages weights",
    "GradientAccumulationScheduler": "trainer.accumulate cuts a batch into micro-batches",
    "LearningRateFinder": "`scaledl find lr` finds one",
    "BatchSizeFinder": "`scaledl find batch_size` finds one",
    "LearningRateMonitor": "metrics.jsonl and TensorBoard have the rate of every step",
    "DeviceStatsMonitor": "trainer.profiler measures a training",
    "ThroughputMonitor": "trainer.profiler measures a training",
    "ProgressBar": "the display is scaledl's own",
    "ModelPruning": "`scaledl compress --method prune` removes channels",
}


def own_callbacks(config: Config) -> list[pl.Callback]:
    """In the config's order. Raises UsageError for what cannot be imported or made, or is no callback."""
    return [_made(f"trainer.callbacks.{number}", entry) for number, entry in enumerate(config.trainer.callbacks)]


@contextmanager
def refusals() -> Iterator[None]:
    """What Lightning refuses of one's own code is bad usage, not a failed run."""
    try:
        yield
    except MisconfigurationException as error:
        raise UsageError(
            f"Lightning cannot use what trainer.callbacks, or a LightningModule in model.name, bring: {error}"
        ) from error


def check_own_steps(config: Config, module: nn.Module) -> None:
    """Refuse what a LightningModule's own optimizer cannot do. Raises UsageError."""
    if not (brings_steps(module) and is_overridden("configure_optimizers", module)):
        return
    name = getattr(config.model, "name", "")
    if config.trainer.strategy == "deepspeed":
        raise UsageError(f"trainer.strategy: got deepspeed, and {name} makes its own optimizer; allowed: auto, ddp")
    if config.transfer.lr_decay < 1:
        raise UsageError(
            f"transfer.lr_decay: got {config.transfer.lr_decay}, and {name} makes its own optimizer; allowed: 1"
        )


def announce_own_steps(module: nn.Module) -> None:
    """Say what of the config is not used."""
    if brings_steps(module):
        own = is_overridden("configure_optimizers", module)
        what = "training_step and optimizer: task.loss, optimizer and scheduler" if own else "training_step: task.loss"
        get_console().info(f"{type(module).__name__} learns by its own {what} of the config do not count")


def _made(key: str, entry: str | CallbackConfig) -> pl.Callback:
    path, args = (entry, {}) if isinstance(entry, str) else (entry.path, entry.args)
    make = import_named(path, f"{key}: {path}")
    try:
        callback: Any = make(**args)
    except Exception as error:  # whatever it does with what it is given
        raise UsageError(f"{key}: {path} cannot be made with {args}: {type(error).__name__}: {error}") from error
    if not isinstance(callback, pl.Callback):
        raise UsageError(f"{key}: {path} gives a {type(callback).__name__}; allowed: a pytorch_lightning.Callback")
    if isinstance(callback, Checkpoint):
        raise UsageError(
            f"{key}: {path} writes checkpoints, which training does by itself: trainer.checkpoint_every_n_steps, "
            "keep_last and select say which"
        )
    instead = next((_INSTEAD[kind.__name__] for kind in type(callback).__mro__ if _is_replaced(kind)), None)
    if instead is not None:
        raise UsageError(f"{key}: {path} does not go with this training; instead: {instead}")
    return callback


def _is_replaced(kind: type) -> bool:
    return kind.__name__ in _INSTEAD and kind.__module__.startswith("pytorch_lightning.")
