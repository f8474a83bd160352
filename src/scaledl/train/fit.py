"""`fit`: config, run, data and model in, trained model out. The only place that builds a Trainer."""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.profilers import PassThroughProfiler
from torch import nn

from scaledl.checkpoint import AtomicCheckpointIO, Checkpointer, best_of, newest_verified, read_checkpoint, scan
from scaledl.config import Config
from scaledl.config.registry import TASKS
from scaledl.console import get_console
from scaledl.data import DataModule
from scaledl.distributed.preemption import stop_flag
from scaledl.errors import UsageError
from scaledl.models.structure import Model
from scaledl.optim.optimizers import build_optimizer
from scaledl.optim.schedules import build_schedule
from scaledl.run import Run, atomic_json
from scaledl.tasks.base import Task
from scaledl.tasks.distillation import SoftTargets
from scaledl.train.callbacks import Display, EarlyStopping, Metrics, MovingAverage, StepLimit
from scaledl.train.precision import resolve_precision


@dataclass(frozen=True)
class FitResult:
    """The trained model in eval mode on the CPU, with the validation metrics of its weights."""

    model: Model
    metrics: dict[str, float]
    epochs: int
    steps: int
    seconds: float


@dataclass(frozen=True)
class Settings:
    """What `auto` in the trainer section became; fixed by the first attempt, so that a resume is exact."""

    precision: str
    channels_last: bool
    num_threads: int


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
    settings = _resolve_settings(config, run, data, model)
    torch.set_num_threads(settings.num_threads)
    task = _build_task(config, data, model, settings)
    if teacher is not None and teacher_weight > 0:
        fast_teacher = _prepare_module(copy.deepcopy(teacher), settings)
        task.auxiliary = SoftTargets(fast_teacher, teacher_weight, temperature, bf16=_bf16_runs_natively(config))
    average = MovingAverage(config.trainer.ema_decay) if config.trainer.ema_decay else None
    metrics = Metrics(run, every_n_steps=config.trainer.log_every_n_steps)
    steps_per_epoch = math.ceil(len(data.train) / config.data.batch_size)
    display = Display(metrics, label, _total_steps(config, steps_per_epoch), config.trainer.log_every_n_steps)

    def before_save() -> None:
        run.check_token()
        metrics.flush(trainer, task)

    trainer = _build_trainer(
        config,
        settings,
        [*callbacks, *_optional(config, average), metrics, display, _checkpointer(config, run, before_save)],
    )
    try:
        with _quiet_lightning(), _cheap_device_checks(config):
            trainer.fit(
                task,
                train_dataloaders=_train_loader(config, data),
                val_dataloaders=data.eval_loader("val", config.data.eval_batch_size),
                ckpt_path=_resume_path(run),
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


def _resolve_settings(config: Config, run: Run, data: DataModule, model: Model) -> Settings:
    path = run.checkpoints / "settings.json"
    if path.exists():
        return Settings(**json.loads(path.read_text()))
    if config.data.batch_size % config.trainer.accumulate:
        raise UsageError(
            f"trainer.accumulate: got {config.trainer.accumulate}; allowed: a divisor of data.batch_size "
            f"({config.data.batch_size}), which is split into that many micro-batches"
        )
    channels_last = config.trainer.channels_last
    settings = Settings(
        precision=config.trainer.precision,
        channels_last=config.model.family != "mlp" if channels_last == "auto" else channels_last,
        num_threads=config.trainer.num_threads or torch.get_num_threads(),
    )
    if settings.precision == "auto":
        settings = _measure_precision(config, data, model, settings)
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    atomic_json(path, vars(settings))
    return settings


def _measure_precision(config: Config, data: DataModule, model: Model, settings: Settings) -> Settings:
    torch.set_num_threads(settings.num_threads)
    device = "cuda" if _uses_gpu(config) else "cpu"
    x = next(iter(data.eval_loader("train", config.data.batch_size // config.trainer.accumulate))).x.to(device)
    module = _prepare_module(model.module, settings).to(device)
    precision = resolve_precision(module, x, data.spec.num_classes)
    get_console().info(f"precision auto: {precision} is faster here")
    return Settings(precision, settings.channels_last, settings.num_threads)


def _prepare_module(module: nn.Module, settings: Settings) -> nn.Module:
    return module.to(memory_format=torch.channels_last) if settings.channels_last else module


def _uses_gpu(config: Config) -> bool:
    if config.trainer.accelerator == "gpu" and not torch.cuda.is_available():
        raise UsageError("trainer.accelerator: got 'gpu', but no GPU is usable here; allowed here: cpu, auto")
    return config.trainer.accelerator != "cpu" and torch.cuda.is_available()


def _bf16_runs_natively(config: Config) -> bool:
    if _uses_gpu(config):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _build_task(config: Config, data: DataModule, model: Model, settings: Settings) -> Task:
    module = _prepare_module(copy.deepcopy(model.module), settings).train()
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


class _NullProfiler(PassThroughProfiler):
    """Lightning asks for a profiling context twenty times a step: hand out the same empty one."""

    class _Shared:
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    _shared = _Shared()

    def profile(self, action_name: str) -> Any:
        return self._shared


def _build_trainer(config: Config, settings: Settings, callbacks: list[pl.Callback]) -> pl.Trainer:
    with _quiet_lightning():
        return pl.Trainer(
            accelerator="gpu" if _uses_gpu(config) else "cpu",
            devices=1,
            precision="bf16-mixed" if settings.precision == "bf16" else "32-true",
            max_epochs=config.trainer.epochs,
            accumulate_grad_batches=config.trainer.accumulate,
            gradient_clip_val=config.trainer.gradient_clip,
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO(), LightningEnvironment()],
            profiler=_NullProfiler(),
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )


@contextmanager
def _cheap_device_checks(config: Config) -> Iterator[None]:
    """Lightning makes torch look for a GPU through NVML, which every optimizer step repeats: 30 us without one."""
    name = "PYTORCH_NVML_BASED_CUDA_CHECK"
    before = os.environ.get(name)
    if not _uses_gpu(config):
        os.environ[name] = "0"
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Hold back Lightning's announcements and its use of a deprecated torch name; other warnings come through."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    loggers += [logging.getLogger(f"{logger.name}.utilities.rank_zero") for logger in loggers]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _resume_path(run: Run) -> str | None:
    found = newest_verified(run.checkpoints)
    if found is None:
        return None
    path, info = found
    epoch = info.epoch + (2 if info.epoch_complete else 1)
    attempt = run.manifest.attempts
    get_console().info(f"resumed from epoch {epoch} step {info.step} (attempt {attempt})")
    return str(path)


def _select_weights(task: Task, run: Run, average: MovingAverage | None, config: Config) -> None:
    """Put the weights of the result into task.model: averaged where asked, of the best epoch where asked."""
    best = best_of(scan(run.checkpoints)) if config.trainer.select == "best" else None
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
