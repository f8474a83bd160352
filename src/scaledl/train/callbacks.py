"""What happens around the steps: metrics, display, moving averages, early stopping, limits."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from scaledl.console import Progress, get_console
from scaledl.run import Run, atomic_write
from scaledl.tasks.base import Task

EPOCH_LINE_SECONDS = 2.0


class Metrics(pl.Callback):
    """Writes every step's loss and every validation to `metrics.jsonl` and TensorBoard, a block at a time."""

    def __init__(self, run: Run, *, every_n_steps: int) -> None:
        self.run = run
        self.every_n_steps = every_n_steps
        self.last_loss = float("nan")
        self._writer: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        from torch.utils.tensorboard import SummaryWriter

        drop_lines_after(self.run.metrics_file, trainer.global_step)
        self._writer = SummaryWriter(str(self.run.path / "tensorboard"), purge_step=trainer.global_step + 1)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if len(pl_module.losses) >= self.every_n_steps:
            self.flush(trainer, pl_module)

    def flush(self, trainer: pl.Trainer, task: Task) -> None:
        losses = task.take_losses()
        if not losses:
            return
        self.last_loss = sum(losses) / len(losses)
        step, epoch = trainer.global_step, trainer.current_epoch
        self._append(kind="train", step=step, epoch=epoch, loss=self.last_loss, lr=task.lr, losses=losses)
        self._writer.add_scalar("train/loss", self.last_loss, step)
        self._writer.add_scalar("train/lr", task.lr, step)
        self.run.heartbeat()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.flush(trainer, pl_module)
        step, epoch = trainer.global_step, trainer.current_epoch
        self._append(kind="val", step=step, epoch=epoch, **pl_module.val_metrics)
        for name, value in pl_module.val_metrics.items():
            self._writer.add_scalar(name.replace("val_", "val/"), value, step)

    def _append(self, **fields: Any) -> None:
        with self.run.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(fields) + "\n")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def drop_lines_after(path: Path, step: int) -> None:
    """Forget what a killed attempt recorded beyond the checkpoint that this attempt resumes from."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record["step"] <= step:
            kept.append(line)
        elif record["kind"] == "train" and (missing := record["step"] - step) < len(record["losses"]):
            losses = record["losses"][:-missing]
            kept.append(json.dumps({**record, "step": step, "losses": losses, "loss": sum(losses) / len(losses)}))
    atomic_write(path, "".join(line + "\n" for line in kept))


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
        loss = task.losses[-1].item() if task.losses else self.metrics.last_loss
        self._progress.advance(step, epoch=epoch, loss=f"{loss:.4f}", lr=f"{task.lr:.2e}")

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
        self._weights: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        state = pl_module.model.state_dict()
        loaded = self.average
        self.average = {k: loaded[k].to(v.device) if k in loaded else v.detach().clone() for k, v in state.items()}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        last = batch_idx + 1 >= trainer.num_training_batches
        if (batch_idx + 1) % trainer.accumulate_grad_batches and not last:
            return
        # A short run would otherwise still carry its random start (the warm-up of Tarvainen and Valpola 2017).
        decay = min(self.decay, (1 + trainer.global_step) / (10 + trainer.global_step))
        state = pl_module.model.state_dict()
        floats = {n for n, v in state.items() if v.is_floating_point() and v.shape == self.average[n].shape}
        torch._foreach_lerp_([self.average[n] for n in floats], [state[n] for n in floats], 1 - decay)
        for name in state.keys() - floats:
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


class StepLimit(pl.Callback):
    """Ends training after `max_steps` optimizer steps, with a validation and a checkpoint as after any epoch."""

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    def on_train_start(self, trainer: pl.Trainer, pl_module: nn.Module) -> None:
        trainer.should_stop = trainer.should_stop or trainer.global_step >= self.max_steps

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step >= self.max_steps:
            trainer.should_stop = True
