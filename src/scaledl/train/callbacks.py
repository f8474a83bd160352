"""What happens around the steps: metrics, display, moving averages, early stopping, limits."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from scaledl.console import Progress, get_console
from scaledl.distributed.link import RankLink
from scaledl.run import Run, atomic_write, storage_errors
from scaledl.run.events import EventFile
from scaledl.tasks.base import NonFiniteLossError, Task

EPOCH_LINE_SECONDS = 2.0


class Metrics(pl.Callback):
    """Writes every step's loss and every validation to `metrics.jsonl` and TensorBoard, a block at a time."""

    def __init__(self, run: Run, total_steps: int, *, every_n_steps: int, writes: bool = True) -> None:
        self.run = run
        self.total_steps = total_steps
        self.every_n_steps = every_n_steps
        self.writes = writes  # of several ranks only the first; all add up their losses together
        self.last_loss = float("nan")
        self._events: EventFile | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not self.writes:
            return
        with storage_errors(self.run.metrics_file, "metrics"):
            drop_lines_after(self.run.metrics_file, trainer.global_step)
            self._events = EventFile(self.run.path / "tensorboard", purge_step=trainer.global_step + 1)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if len(pl_module.losses) >= self.every_n_steps:
            self.flush(trainer, pl_module)

    def flush(self, trainer: pl.Trainer, task: Task) -> None:
        losses = task.take_losses()
        if not losses:
            return
        known = [loss for loss in losses if math.isfinite(loss)]
        self.last_loss = sum(known) / len(known) if known else float("nan")
        step, epoch = trainer.global_step, trainer.current_epoch
        mean = self.last_loss if known else None
        record = {"kind": "train", "step": step, "epoch": epoch, "loss": mean, "lr": task.lr}
        record["total_steps"] = self.total_steps  # for those who look on
        shown = [loss if math.isfinite(loss) else None for loss in losses]  # null: the step was left out
        self._write({**record, "losses": shown}, {"train/loss": self.last_loss, "train/lr": task.lr})
        if self.writes:
            self.run.heartbeat()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.flush(trainer, pl_module)
        step, epoch = trainer.global_step, trainer.current_epoch
        values = pl_module.val_metrics
        scalars = {name.replace("val_", "val/"): value for name, value in values.items()}
        self._write({"kind": "val", "step": step, "epoch": epoch, **values}, scalars)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        if isinstance(exception, NonFiniteLossError):  # the curve up to it is what one wants to see
            self.flush(trainer, pl_module)

    def _write(self, record: dict[str, Any], scalars: dict[str, float]) -> None:
        if self._events is None:
            return
        with storage_errors(self.run.metrics_file, "metrics"):
            with self.run.metrics_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            self._events.add_scalars(record["step"], scalars)


def drop_lines_after(path: Path, step: int) -> None:
    """Forget what a killed attempt recorded beyond the checkpoint that this attempt resumes from."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            kept.append(_until(step, json.loads(line)))
        except (ValueError, TypeError, LookupError):  # cut short by a kill or a full disk
            continue
    atomic_write(path, "".join(json.dumps(record) + "\n" for record in kept if record is not None))


def _until(step: int, record: Any) -> dict[str, Any] | None:
    """The part of a record that belongs to the first `step` steps."""
    if record["step"] <= step:
        return dict(record)
    if record["kind"] != "train" or (missing := record["step"] - step) >= len(record["losses"]):
        return None
    losses = record["losses"][:-missing]
    known = [loss for loss in losses if loss is not None]
    return {**record, "step": step, "losses": losses, "loss": sum(known) / len(known) if known else None}


class Display(pl.Callback):
    """Progress over all optimizer steps of the run, and a line after an epoch, at most every two seconds."""

    def __init__(self, metrics: Metrics, label: str, total_steps: int, refresh_steps: int) -> None:
        self.metrics = metrics
        self.label = label
        self.total_steps = total_steps
        self.refresh_steps = refresh_steps
        self._progress: Progress | None = None
        self._shown = 0
        self._last_line = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._shown = trainer.global_step
        self._progress = get_console().progress(self.label, self.total_steps, done=trainer.global_step)
        self._progress.__enter__()
        self._show(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step - self._shown >= self.refresh_steps:
            self._show(trainer, pl_module)

    def _show(self, trainer: pl.Trainer, task: Task) -> None:
        assert self._progress is not None
        step, self._shown = trainer.global_step - self._shown, trainer.global_step
        epoch = f"{min(trainer.current_epoch + 1, trainer.max_epochs or 1)}/{trainer.max_epochs}"
        one = not task.ranks.several  # of several ranks, the last loss here is only a share
        loss = task.losses[-1].item() if task.losses and one else self.metrics.last_loss
        known = {} if math.isnan(loss) else {"loss": f"{loss:.4f}", "lr": f"{task.lr:.2e}"}
        self._progress.advance(step, epoch=epoch, **known)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._show(trainer, pl_module)
        last = trainer.current_epoch + 1 == trainer.max_epochs or trainer.should_stop
        if not last and time.monotonic() - self._last_line < EPOCH_LINE_SECONDS:
            return
        self._last_line = time.monotonic()
        shown = "  ".join(f"{name} {value:.4f}" for name, value in pl_module.val_metrics.items())
        epochs = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        get_console().info(f"{self.label}  {epochs}  train_loss {self.metrics.last_loss:.4f}  {shown}")

    def close(self) -> None:
        if self._progress is not None:
            self._progress.__exit__(None, None, None)


class MovingAverage(pl.Callback):
    """Exponential moving average of weights and statistics, in place of the weights during validation."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self._averaged: list[str] = []
        self._weights: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        state = pl_module.model.state_dict()
        # Not the ranges of observers: they begin as infinities, and the average of one is NaN.
        parameters = {name for name, _ in pl_module.model.named_parameters()}
        self._averaged = [n for n in state if n in parameters or n.endswith((".running_mean", ".running_var"))]
        loaded = self.average
        self.average = {k: loaded[k].to(v.device) if k in loaded else v.detach().clone() for k, v in state.items()}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        last = batch_idx + 1 >= trainer.num_training_batches
        if ((batch_idx + 1) % trainer.accumulate_grad_batches and not last) or pl_module.skipped:
            return
        # A short run would otherwise still carry its random start (the warm-up of Tarvainen and Valpola 2017).
        decay = min(self.decay, (1 + trainer.global_step) / (10 + trainer.global_step))
        state = pl_module.model.state_dict()
        torch._foreach_lerp_([self.average[n] for n in self._averaged], [state[n] for n in self._averaged], 1 - decay)
        for name in state.keys() - self._averaged:
            self.average[name] = state[name].detach().clone()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._weights = {k: v.detach().clone() for k, v in pl_module.model.state_dict().items()}
        pl_module.model.load_state_dict(self.average)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.model.load_state_dict(self._weights)
        self._weights = {}

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.average = state_dict["average"]


class EarlyStopping(pl.Callback):
    """Stops after `patience` epochs without a lower validation loss; survives a resume."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best = float("inf")
        self.waited = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        trainer.should_stop = trainer.should_stop or self.waited >= self.patience

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        loss = pl_module.val_metrics["val_loss"]
        self.waited = 0 if loss < self.best else self.waited + 1
        self.best = min(self.best, loss)
        if self.waited >= self.patience:
            get_console().info(f"early stop: validation loss no better than {self.best:.4f} for {self.waited} epochs")
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.waited = state_dict["best"], state_dict["waited"]


class SignsOfLife(pl.Callback):
    """Tells the process that watches over this rank where it is."""

    def __init__(self, link: RankLink) -> None:
        self.link = link

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.link.phase("train")
        self.link.tick(trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.link.tick(trainer.global_step)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.link.phase("validate")

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.link.tick(trainer.global_step)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.link.phase("train")

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.link.phase("idle")

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self.link.phase("idle")


class StepLimit(pl.Callback):
    """Ends training after `max_steps` optimizer steps, with a validation and a checkpoint as after any epoch."""

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    def on_train_start(self, trainer: pl.Trainer, pl_module: nn.Module) -> None:
        trainer.should_stop = trainer.should_stop or trainer.global_step >= self.max_steps

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step >= self.max_steps:
            trainer.should_stop = True
