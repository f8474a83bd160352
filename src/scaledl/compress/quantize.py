"""int8: train with fake quantization, or calibrate on training data."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from scaledl.compress.stage import StageContext, finetune, finetune_config, start_model
from scaledl.config import Config
from scaledl.config.schema import AugmentConfig, PTQConfig, QATConfig
from scaledl.console import get_console
from scaledl.distributed.preemption import stop_flag
from scaledl.models.quantized import (
    calibrating,
    freeze_batchnorm_,
    freeze_observers_,
    observe_,
    prepare_ptq,
    prepare_qat,
)
from scaledl.models.structure import Model
from scaledl.tasks.own_steps import brings_steps

# Fake quantization raises under bf16 autocast, and averaged weights do not fit the ranges found with the others.
QAT_TRAINER = {
    "trainer.precision": "fp32",
    "trainer.compile": False,
    "trainer.ema_decay": None,
    "trainer.swa_start": None,
    "trainer.swa_lr_ratio": None,
    "scheduler.name": "cosine",
    "scheduler.warmup_epochs": 0.0,
}


def apply_qat(model: Model, context: StageContext) -> Model:
    """Quantization-aware training in float32; ranges and BatchNorm statistics are frozen towards the end."""
    stage = context.stage
    assert isinstance(stage, QATConfig), stage.method
    engine = context.config.export.engine
    if brings_steps(model.module):
        get_console().info(
            f"{context.label}: fake-quantized, {type(model.module).__name__} has no steps of its own: it learns by "
            "task.loss, optimizer and scheduler of the config"
        )
    start = start_model(context.run, lambda: prepare_qat(model, engine), trust=context.trust)
    config = finetune_config(context, epochs_share=0.25, lr_share=0.1)
    changes = QAT_TRAINER if stage.ema_decay is None else {**QAT_TRAINER, "trainer.ema_decay": stage.ema_decay}
    freeze = FreezeAfter(freeze_step(config, context.data.trained(config), stage.freeze_fraction))
    trained = finetune(start, context, config, callbacks=[freeze], changes=changes)
    freeze_observers_(trained.module)
    return trained


def apply_ptq(model: Model, context: StageContext) -> Model:
    """Calibrate the ranges on the first `samples` of a shuffled, unaugmented pass over the training split."""
    stage = context.stage
    assert isinstance(stage, PTQConfig), stage.method
    prepared = prepare_ptq(model, context.config.export.engine)
    count = min(stage.samples, len(context.data.train))
    batch_size = min(context.config.data.eval_batch_size, count)
    loader = context.data.train_loader(batch_size, AugmentConfig(), context.config.run.seed)
    seen = 0
    with calibrating(prepared.module), torch.no_grad():
        for batch in loader:
            stop_flag.raise_if_set(f"{context.label} begins again")
            prepared.module(batch.x[: count - seen])
            seen += len(batch.x[: count - seen])
            if seen >= count:
                break
    get_console().info(f"{context.label}: calibrated on {seen:,} training samples")
    return prepared


def freeze_step(config: Config, train_samples: int, fraction: float) -> int:
    """The optimizer step from which the last `fraction` of the training runs.

    >>> from scaledl.config.schema import Config, DataConfig, TrainerConfig
    >>> config = Config(data=DataConfig(batch_size=10), trainer=TrainerConfig(epochs=4))
    >>> freeze_step(config, 95, 0.25)
    30
    """
    total = config.trainer.epochs * math.ceil(train_samples / config.data.batch_size)
    total = min(total, config.trainer.max_steps or total)
    return math.ceil(total * (1 - fraction))


class FreezeAfter(pl.Callback):
    """Freezes observers and BatchNorm statistics from optimizer step `step` on, and always during validation.

    Holds no state of its own: a resumed training derives it from the step it is at. Validation must not be observed,
    which `eval()` would not prevent.
    """

    def __init__(self, step: int) -> None:
        self.step = step
        self.recipe = {"name": "freeze_after", "step": step}  # for the other ranks
        self._frozen = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._frozen = False
        self._set(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._set(trainer, pl_module)  # after validation, where other callbacks put a saved state back

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if not self._frozen and trainer.global_step >= self.step:
            self._set(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        freeze_observers_(pl_module)

    def _set(self, trainer: pl.Trainer, module: nn.Module) -> None:
        self._frozen = trainer.global_step >= self.step
        if self._frozen:
            freeze_observers_(module)
            freeze_batchnorm_(module)
        else:
            observe_(module)
