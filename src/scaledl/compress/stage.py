"""What every stage shares: its context, the fine-tuning it may do, and a start that a resumed stage finds again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl

from scaledl.config import Config, replace
from scaledl.config.schema import FinetuneSettings, Stage, TransferConfig
from scaledl.data import DataModule
from scaledl.models.structure import Model, load_model, save_model
from scaledl.run import Run
from scaledl.train import fit

START = "start"


@dataclass(frozen=True)
class StageContext:
    """Everything a stage may use besides the model that it changes.

    `config` is the run's, `stage` this stage's section at `compress.stages[index]`, `run` the stage's own run,
    `teacher` the frozen model of the source run, `outer` the chain's run, which shows signs of life meanwhile,
    `trust` whether code that saved models name is imported.
    """

    config: Config
    stage: Stage
    run: Run
    data: DataModule
    teacher: Model
    index: int = 0
    outer: Run | None = None
    trust: bool = False

    @property
    def key(self) -> str:
        """The stage's dotted key, for messages."""
        return stage_key(self.index)

    @property
    def label(self) -> str:
        """How the stage is named in the display: "stage 1 distill"."""
        return stage_label(self.index, self.stage.method)


def stage_key(index: int) -> str:
    """The dotted key of a stage in a config."""
    return f"compress.stages[{index}]"


def stage_label(index: int, method: str) -> str:
    """How a stage is named in the display, counted from one."""
    return f"stage {index + 1} {method}"


def start_model(run: Run, make_fn: Callable[[], Model], *, trust: bool = False) -> Model:
    """The changed model that training starts from: made and saved once, found again by every later attempt.

    Always the loaded one, so that a first attempt and a resumed one start from the same bits.
    """
    directory = run.path / START
    if any(name.startswith(f"{START}/") for name in run.manifest.files):
        run.verify_files(START)
    else:
        save_model(make_fn(), directory)
        run.record(START)
    return load_model(directory, trust=trust)


def finetune_config(context: StageContext, *, epochs_share: float, lr_share: float) -> Config:
    """The run's config for this stage's training: what the stage sets, else shares of the run's epochs and rate.

    Early stopping is off: a stage is short, and its schedule has to run to its end. Nothing is frozen.
    """
    config, stage = context.config.model_copy(update={"transfer": TransferConfig()}), context.stage
    assert isinstance(stage, FinetuneSettings), stage.method
    epochs = stage.epochs or max(1, math.ceil(config.trainer.epochs * epochs_share))
    epochs = 1 if config.trainer.fast_dev_run else epochs
    changes: dict[str, Any] = {
        "trainer.epochs": epochs,
        "trainer.early_stopping_patience": None,
        "optimizer.lr": stage.lr or config.optimizer.lr * lr_share,
        "scheduler.warmup_epochs": min(config.scheduler.warmup_epochs, epochs / 4),
    }
    optional = {
        "optimizer.weight_decay": stage.weight_decay,
        "task.label_smoothing": stage.label_smoothing,
        "trainer.ema_decay": stage.ema_decay,
    }
    changes.update({key: value for key, value in optional.items() if value is not None})
    if stage.ema_decay is not None:
        changes |= {"trainer.swa_start": None, "trainer.swa_lr_ratio": None}
    return replace(config, changes)


def finetune(
    model: Model,
    context: StageContext,
    config: Config,
    *,
    callbacks: Sequence[pl.Callback] = (),
    changes: Mapping[str, Any] | None = None,
) -> Model:
    """Train `model` with the stage's share of distillation from the source run's model; resumes by itself."""
    stage = context.stage
    assert isinstance(stage, FinetuneSettings), stage.method
    config = replace(config, {"model": model.structure.config, **(changes or {})})
    alive = [_OuterHeartbeat(context.outer)] if context.outer else []
    result = fit(
        config,
        context.run,
        context.data,
        model,
        teacher=context.teacher,
        teacher_weight=stage.teacher_weight,
        temperature=stage.temperature,
        callbacks=[*callbacks, *alive],
        label=context.label,
    )
    return result.model


class _OuterHeartbeat(pl.Callback):
    """Other machines see a run whose stage trains for hours as alive."""

    def __init__(self, outer: Run) -> None:
        self.outer = outer

    def on_train_batch_end(self, *_: Any) -> None:
        self.outer.heartbeat()
