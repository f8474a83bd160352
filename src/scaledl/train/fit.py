"""`fit`: config, run, data and model in, trained model out."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from scaledl.checkpoint import (
    Checkpointer,
    best_verified,
    candidates,
    newest_verified,
    read_checkpoint,
)
from scaledl.config import Config
from scaledl.config.registry import TASKS
from scaledl.console import get_console
from scaledl.data import DataModule
from scaledl.distributed.preemption import stop_flag
from scaledl.errors import UsageError
from scaledl.models.structure import Model
from scaledl.optim.optimizers import build_optimizer
from scaledl.optim.schedules import build_schedule
from scaledl.run import Run
from scaledl.tasks.base import Task
from scaledl.tasks.distillation import SoftTargets
from scaledl.train.callbacks import Display, EarlyStopping, Metrics, MovingAverage, StepLimit
from scaledl.train.settings import Settings, prepare_module, resolve_settings
from scaledl.train.trainer import build_trainer, cheap_device_checks, own_interrupts, quiet_lightning


@dataclass(frozen=True)
class FitResult:
    """The trained model in eval mode on the CPU, with the validation metrics of its weights."""

    model: Model
    metrics: dict[str, float]
    epochs: int
    steps: int
    seconds: float


def fit(
    config: Config,
    run: Run,
    data: DataModule,
    model: Model,
    *,
    teacher: nn.Module | None = None,
    teacher_weight: float = 0.0,
    temperature: float = 4.0,
    callbacks: Sequence[pl.Callback] = (),
    label: str = "train",
) -> FitResult:
    """Train `model` on data.train, validating on data.val; never looks at the test split.

    Resumes by itself from the newest verified checkpoint in `run.checkpoints`.

    Args:
        teacher: also learn from this module's outputs, with `teacher_weight` of the loss at `temperature`.
        callbacks: more Lightning callbacks, called before ours.
        label: how the progress display names this training.

    Raises:
        UsageError: settings that contradict each other or the checkpoint.
        NonFiniteLossError: the loss became NaN or infinite.
        Preempted, Interrupted: a stop signal came; a checkpoint was saved.
    """
    started = time.monotonic()
    stop_flag.raise_if_set(f"{label} had not begun")
    settings = resolve_settings(config, run, data, model)
    torch.set_num_threads(settings.num_threads)
    task = _build_task(config, data, model, settings)
    if teacher is not None and teacher_weight > 0:
        fast_teacher = prepare_module(copy.deepcopy(teacher), settings)
        task.auxiliary = SoftTargets(fast_teacher, teacher_weight, temperature, bf16=settings.teacher_bf16)
    average = MovingAverage(config.trainer.ema_decay) if config.trainer.ema_decay else None
    metrics = Metrics(run, every_n_steps=config.trainer.log_every_n_steps)
    steps_per_epoch = math.ceil(len(data.train) / config.data.batch_size)
    display = Display(metrics, label, _total_steps(config, steps_per_epoch), config.trainer.log_every_n_steps)

    def before_save() -> None:
        run.check_token()
        metrics.flush(trainer, task)

    checkpointer = _checkpointer(config, run, before_save)
    trainer = build_trainer(
        config, settings, task, [*callbacks, *_optional(config, average), metrics, display, checkpointer]
    )
    resume = _resume_path(run, config.trainer.epochs)
    try:
        with quiet_lightning(), cheap_device_checks(config), own_interrupts(), _restoring(resume, checkpointer):
            trainer.fit(
                task,
                train_dataloaders=_train_loader(config, data),
                val_dataloaders=data.eval_loader("val", config.data.eval_batch_size),
                ckpt_path=resume,
                weights_only=True,
            )
    finally:
        display.close()
        metrics.close()
    _select_weights(task, run, average, config)
    module = task.model.cpu().to(memory_format=torch.contiguous_format).eval()
    return FitResult(
        Model(module, model.structure),
        dict(task.val_metrics),
        trainer.current_epoch,
        trainer.global_step,
        time.monotonic() - started,
    )


def _build_task(config: Config, data: DataModule, model: Model, settings: Settings) -> Task:
    module = prepare_module(copy.deepcopy(model.module), settings).train()
    task: Task = TASKS.resolve(config.task.name)(module, config.task)
    steps_per_epoch = math.ceil(len(data.train) / config.data.batch_size)
    task.channels_last = settings.channels_last
    task.accumulate = config.trainer.accumulate
    task.batch_size = config.data.batch_size
    task.train_samples = len(data.train)
    task.peak_lr = config.optimizer.lr
    task.schedule = build_schedule(config.scheduler, steps_per_epoch, _total_steps(config, steps_per_epoch))
    task.optimizer_fn = lambda target: build_optimizer(target, config.optimizer)
    if config.trainer.compile:
        module.compile()
    return task


def _total_steps(config: Config, steps_per_epoch: int) -> int:
    steps = config.trainer.epochs * steps_per_epoch
    return min(steps, config.trainer.max_steps or steps)


def _train_loader(config: Config, data: DataModule) -> Any:
    micro_batch = config.data.batch_size // config.trainer.accumulate
    return data.train_loader(micro_batch, config.data.augment, config.run.seed)


def _optional(config: Config, average: MovingAverage | None) -> list[pl.Callback]:
    trainer = config.trainer
    found: list[pl.Callback | None] = [
        average,
        EarlyStopping(trainer.early_stopping_patience) if trainer.early_stopping_patience else None,
        StepLimit(trainer.max_steps) if trainer.max_steps else None,
    ]
    return [callback for callback in found if callback is not None]


def _checkpointer(config: Config, run: Run, before_save: Any) -> Checkpointer:
    return Checkpointer(
        run.checkpoints,
        keep_last=config.trainer.keep_last,
        every_n_steps=config.trainer.checkpoint_every_n_steps,
        stop_flag=stop_flag,
        before_save=before_save,
    )


@contextmanager
def _restoring(resume: str | None, checkpointer: Checkpointer) -> Iterator[None]:
    """An error between loading a checkpoint and the first step is the checkpoint's."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if resume is None or checkpointer.started:
            raise
        problem = f"{type(error).__name__}: {str(error).strip() or 'no details'}"
        raise UsageError(
            f"{resume} does not fit this run ({problem}); move it and its .json away to go on from the one before"
        ) from error


def _resume_path(run: Run, epochs: int) -> str | None:
    found = newest_verified(run.checkpoints)
    if found is None:
        if candidates(run.checkpoints):
            get_console().warn(f"no checkpoint in {run.checkpoints} can be used: starting again from step 0")
        return None
    path, info = found
    epoch = min(info.epoch + (2 if info.epoch_complete else 1), epochs)
    attempt = run.manifest.attempts
    get_console().info(f"resumed from epoch {epoch} step {info.step} (attempt {attempt})")
    return str(path)


def _select_weights(task: Task, run: Run, average: MovingAverage | None, config: Config) -> None:
    """Put the weights of the result into task.model: averaged where asked, of the best epoch where asked."""
    best = best_verified(run.checkpoints) if config.trainer.select == "best" else None
    if best is None:
        if average is not None:
            task.model.load_state_dict(average.average)
        return
    checkpoint = read_checkpoint(best)
    task.val_metrics = checkpoint["val_metrics"]
    if average is not None:
        task.model.load_state_dict(checkpoint["callbacks"]["MovingAverage"]["average"])
    else:
        task.load_state_dict(checkpoint["state_dict"])
