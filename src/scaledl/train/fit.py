"""`fit`: config, run, data and model in, trained model out; on one rank or on all of them together."""

from __future__ import annotations

import copy
import dataclasses
import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from scaledl.checkpoint import (
    Checkpointer,
    CheckpointWriter,
    best_verified,
    candidates,
    newest_verified,
    read_checkpoint,
    seed_generators,
)
from scaledl.config import Config
from scaledl.console import get_console
from scaledl.data import DataModule
from scaledl.distributed.link import current_link
from scaledl.distributed.preemption import stop_flag
from scaledl.distributed.ranks import Ranks, current_ranks
from scaledl.errors import ScaledlError, UsageError
from scaledl.models.blank import blank_parameters, filled
from scaledl.models.structure import Model, Structure, build
from scaledl.optim.schedules import Plateau
from scaledl.run import Run
from scaledl.tasks.base import OutOfMemory, Task
from scaledl.tasks.distillation import SoftTargets
from scaledl.tasks.own_steps import release_trainers_
from scaledl.train.callbacks import Display, EarlyStopping, Metrics, MovingAverage, SignsOfLife, StepLimit
from scaledl.train.compiling import compile_, uncompile_
from scaledl.train.freezing import Freezing, Plan
from scaledl.train.learner import Learner, make_learner
from scaledl.train.lora import merged
from scaledl.train.own import announce_own_steps, check_own_steps, own_callbacks, refusals
from scaledl.train.precision import bf16_problem
from scaledl.train.settings import Settings, halve_micro_batch, prepare_module, resolve_settings
from scaledl.train.share import can_be_blank
from scaledl.train.steps import steps_per_epoch, total_steps
from scaledl.train.swa import WeightAverage
from scaledl.train.trainer import build_trainer, cheap_device_checks, own_interrupts, quiet_lightning
from scaledl.train.updates import LowerOnPlateau, swa_start_step

Average = MovingAverage | WeightAverage


@dataclass(frozen=True)
class FitResult:
    """The trained model in eval mode on the CPU, with the validation metrics of its weights."""

    model: Model
    metrics: dict[str, float]
    epochs: int
    steps: int
    seconds: float


@dataclass(frozen=True)
class Fitting:
    """All that a rank needs to take part in a training. `resume` is the checkpoint to go on from."""

    config: Config
    settings: Settings
    run: Run
    data: DataModule
    model: Model
    teacher: Model | None
    teacher_weight: float
    temperature: float
    callbacks: tuple[pl.Callback, ...]
    label: str
    resume: str | None
    ranks: Ranks


def fit(
    config: Config,
    run: Run,
    data: DataModule,
    model: Model,
    *,
    teacher: Model | None = None,
    teacher_weight: float = 0.0,
    temperature: float = 4.0,
    callbacks: Sequence[pl.Callback] = (),
    label: str = "train",
) -> FitResult:
    """Train `model` on data.train, validating on data.val; never looks at the test split.

    The module itself is trained, and under DeepSpeed emptied: what is left to use is the result's.

    Resumes by itself from the newest verified checkpoint in `run.checkpoints`. Rank 0 calls this; the others are
    called in (`scaledl.train.follow`). When a micro-batch does not fit into memory, training goes on from the same
    step with smaller ones, of the same batch.

    Args:
        teacher: also learn from this model's outputs, with `teacher_weight` of the loss at `temperature`.
        callbacks: more Lightning callbacks, called before ours. Other ranks get those that have a `recipe`.
        label: how the progress display names this training.

    Raises:
        UsageError: settings that contradict each other or the checkpoint.
        NonFiniteLossError: the loss was NaN or infinite in too many steps in a row.
        Preempted, Interrupted: a stop signal came; a checkpoint was saved.
        ScaledlError: out of memory with the smallest micro-batch; another rank failed.
    """
    started = time.monotonic()
    stop_flag.raise_if_set(f"{label} had not begun")
    ranks = current_ranks()
    settings = resolve_settings(config, run, data, model, ranks)
    _announce(run, config)
    check_own_steps(config, model.module)
    announce_own_steps(model.module)
    fitting = Fitting(
        *(config, settings, run, data, model, teacher if teacher_weight > 0 else None, teacher_weight, temperature),
        *(tuple(callbacks), label, None, ranks),
    )
    while True:
        fitting = dataclasses.replace(fitting, resume=_resume_path(run, config.trainer.epochs))
        if ranks.several:
            from scaledl.train.follow import call_in

            call_in(fitting)
        try:
            trained = train_together(fitting)
            break
        except OutOfMemory as error:
            problem = str(error)
        except Exception as error:
            raise ranks.blame(error) or error from error
        fitting = _smaller(fitting, problem)  # out here nothing holds what the failed attempt had in memory
    module, task, trainer = trained
    epochs, steps, metrics = trainer.current_epoch, trainer.global_step, dict(task.val_metrics)
    if task.averages_gradients:
        del trained, task, trainer
        gc.collect()  # DeepSpeed's engine and Lightning's trainer refer to each other, and hold several models' memory
    return FitResult(Model(module, model.structure), metrics, epochs, steps, time.monotonic() - started)


def train_together(fitting: Fitting) -> tuple[nn.Module, Task, pl.Trainer]:
    """What every rank does in the same way. The module is whole on rank 0 only."""
    config, settings, run, ranks = fitting.config, fitting.settings, fitting.run, fitting.ranks
    torch.set_num_threads(settings.num_threads)
    if fitting.resume is None:
        seed_generators(config.run.seed, 0, ranks.rank)
    learner = _learner(fitting)
    task = learner.task
    steps = total_steps(config, steps_per_epoch(config, fitting.data))
    average = _average(fitting, task, steps)
    metrics = Metrics(run, steps, every_n_steps=config.trainer.log_every_n_steps, writes=ranks.is_main)
    display = Display(metrics, fitting.label, steps, config.trainer.log_every_n_steps)

    def check_token() -> None:
        if ranks.is_main:
            run.check_token()

    def before_save() -> None:
        check_token()
        metrics.flush(trainer, task)

    zero = config.trainer.strategy == "deepspeed"
    writer = CheckpointWriter(task, keep_last=config.trainer.keep_last, check_token=check_token, sharded=zero)
    checkpointer = Checkpointer(
        run,
        writer,
        every_n_steps=config.trainer.checkpoint_every_n_steps,
        stop_flag=stop_flag,
        before_save=before_save,
        ranks=ranks,
        seed=config.run.seed,
    )
    whole = WholeWeights()
    ours = [
        *_frozen(fitting, learner.plan),
        *_optional(config, average),
        metrics,
        *([display] if ranks.is_main else []),
        checkpointer,
        whole,
    ]
    signs = SignsOfLife(current_link())
    callbacks = [*fitting.callbacks, *own_callbacks(config), signs, *ours]
    with refusals():
        trainer = build_trainer(config, settings, run, ranks, writer, callbacks)
    try:
        with (
            quiet_lightning(),
            cheap_device_checks(config),
            own_interrupts(),
            refusals(),
            _restoring(fitting.resume, checkpointer),
        ):
            trainer.fit(
                task,
                train_dataloaders=_train_loader(fitting, task),
                val_dataloaders=task.eval_loader(
                    *(fitting.data, "val", config.data.eval_batch_size, config.data.augment),
                    rank=ranks.rank,
                    world_size=ranks.world_size,
                    limit=fitting.data.evaluated("val", config),
                ),
                ckpt_path=fitting.resume,
                weights_only=True,
            )
    finally:
        display.close()
        writer.close()
        release_trainers_(task.model)
        uncompile_(task.model)
    module = _result(fitting, task, whole, average)
    return module if learner.adapters is None else merged(learner.adapters).eval(), task, trainer


class WholeWeights(pl.Callback):
    """Keeps the weights at the end where a strategy has them in shards."""

    def __init__(self) -> None:
        self.state: dict[str, Tensor] | None = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if pl_module.averages_gradients:
            strategy: Any = trainer.strategy
            self.state = strategy.take_whole_state()


def _announce(run: Run, config: Config) -> None:
    current_link().announce(run.path / "ranks", run.manifest.attempts, config.trainer.hang_seconds)


def _learner(fitting: Fitting) -> Learner:
    """With the teacher, if there is one."""
    config, settings = fitting.config, fitting.settings
    learner = make_learner(config, settings, fitting.data, fitting.model, fitting.ranks)
    if fitting.teacher is not None:
        teacher = prepare_module(copy.deepcopy(fitting.teacher.module), settings)
        bf16 = settings.teacher_bf16 and not bf16_problem(fitting.teacher)
        learner.task.auxiliary = SoftTargets(
            teacher, fitting.teacher_weight, fitting.temperature, learner.task.soft_loss, bf16=bf16
        )
    if settings.compile:
        compile_(learner.task.model)
    return learner


def _frozen(fitting: Fitting, plan: Plan) -> list[pl.Callback]:
    batchnorm_eval = fitting.config.transfer.frozen_batchnorm == "eval"
    return [Freezing(plan, batchnorm_eval=batchnorm_eval, label=fitting.label)] if plan.freezes else []


def _smaller(fitting: Fitting, problem: str) -> Fitting:
    """The same with smaller micro-batches, and a model without what the failed attempt hung on it, or made of it.

    Its values come from the checkpoint. Raises ScaledlError where there is none, or where one sample is too much.
    """
    run, model = fitting.run, fitting.model
    if newest_verified(run.checkpoints) is None:
        raise ScaledlError(f"{problem}; and no checkpoint could be written to go on from with smaller micro-batches")
    if fitting.config.trainer.strategy == "deepspeed" or fitting.config.transfer.lora.rank:
        model = Model(build(model.structure, trust=True), model.structure)
    else:
        model = Model(copy.deepcopy(model.module), model.structure)
    fitting = dataclasses.replace(fitting, model=model)
    gc.collect()
    if fitting.config.optimizer.sam_rho is not None:
        raise ScaledlError(f"{problem}; optimizer.sam_rho needs whole batches, so take a smaller data.batch_size")
    settings = halve_micro_batch(fitting.settings, fitting.config, run, fitting.ranks, problem)
    return dataclasses.replace(fitting, settings=settings)


def _average(fitting: Fitting, task: Task, steps: int) -> Average | None:
    trainer = fitting.config.trainer
    if trainer.ema_decay:
        return MovingAverage(trainer.ema_decay)
    if trainer.swa_start is None:
        return None

    def batches(epoch: int) -> Any:
        loader = _train_loader(fitting, task)
        loader.set_epoch(epoch)
        return loader

    return WeightAverage(swa_start_step(fitting.config, steps), steps, batches)


def _train_loader(fitting: Fitting, task: Task) -> Any:
    config, ranks = fitting.config, fitting.ranks
    micro_batch = config.data.batch_size // fitting.settings.accumulate
    return task.train_loader(
        *(fitting.data, micro_batch, config.data.augment),
        rank=ranks.rank,
        world_size=ranks.world_size,
        num_workers=config.data.num_workers,
        sampling=config.data.sampling,
        limit=fitting.data.trained(config),
    )


def _optional(config: Config, average: Average | None) -> list[pl.Callback]:
    trainer, scheduler = config.trainer, config.scheduler
    found: list[pl.Callback | None] = [
        average,
        LowerOnPlateau(Plateau(**scheduler.settings(), floor=scheduler.min_lr_ratio))
        if scheduler.name == "plateau"
        else None,
        EarlyStopping(trainer.early_stopping_patience) if trainer.early_stopping_patience else None,
        StepLimit(trainer.max_steps) if trainer.max_steps else None,
    ]
    return [callback for callback in found if callback is not None]


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


def _result(fitting: Fitting, task: Task, whole: WholeWeights, average: Average | None) -> nn.Module:
    """The module with the weights of the result: averaged where asked, of the best epoch where asked."""
    ranks = fitting.ranks
    if not ranks.is_main:
        return task.model
    module = task.model
    if task.averages_gradients:
        state = whole.state
        if state is None:  # no step was left to do, so nothing was trained, and nothing gathered
            assert fitting.resume is not None
            state = read_checkpoint(Path(fitting.resume))["state_dict"]
        module = _whole_module(fitting.model.structure, _of_model(state))
    _select_weights(module, task, fitting.run, average, fitting.config)
    return module.cpu().to(memory_format=torch.contiguous_format).requires_grad_(True).eval()


def _whole_module(structure: Structure, state: dict[str, Tensor]) -> nn.Module:
    if can_be_blank(structure):
        with blank_parameters():
            blank = build(structure, trust=True)
        return filled(blank, state)
    module = build(structure, trust=True)
    module.load_state_dict(state)
    return module


def _of_model(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("model."): tensor for name, tensor in state.items() if name.startswith("model.")}


def _select_weights(module: nn.Module, task: Task, run: Run, average: Average | None, config: Config) -> None:
    best = best_verified(run.checkpoints) if config.trainer.select == "best" else None
    if best is None:
        if average is not None and average.average:
            module.load_state_dict(average.average)
        return
    checkpoint = read_checkpoint(best, mapped=config.trainer.strategy == "deepspeed")
    task.val_metrics = checkpoint["val_metrics"]
    averaged = checkpoint["callbacks"][average.state_key]["average"] if average is not None else {}
    module.load_state_dict(averaged or _of_model(checkpoint["state_dict"]))
