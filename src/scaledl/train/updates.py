"""How the weights of a task move: optimizer, course of the learning rate, penalties, clipping, SAM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from scaledl.config import Config
from scaledl.config.schema import PROXIMAL
from scaledl.optim.optimizers import build_optimizer, weights
from scaledl.optim.penalties import penalty
from scaledl.optim.schedules import Plateau, build_schedule, held
from scaledl.tasks.base import Task
from scaledl.train.steps import total_steps


def equip(
    task: Task, config: Config, steps_per_epoch: int, lr_scale_fn: Callable[[str], float] = lambda name: 1.0
) -> None:
    """Tell a task what the optimizer, scheduler and trainer sections say about its updates.

    `lr_scale_fn`: for the name of a parameter, its share of the learning rate.
    """
    total = total_steps(config, steps_per_epoch)
    task.peak_lr = config.optimizer.lr
    task.schedule = build_schedule(config.scheduler, steps_per_epoch, total)
    if config.trainer.swa_lr_ratio is not None:
        task.schedule = held(task.schedule, swa_start_step(config, total), config.trainer.swa_lr_ratio)
    task.optimizer_fn = lambda target: build_optimizer(target, config.optimizer, lr_scale_fn)
    task.gradient_clip = config.trainer.gradient_clip
    task.gradient_clip_value = config.trainer.gradient_clip_value
    task.sam_rho = config.optimizer.sam_rho
    if config.optimizer.name not in PROXIMAL and (config.optimizer.l1 or config.optimizer.l2):
        _penalise(task, config.optimizer.l1, config.optimizer.l2)


def swa_start_step(config: Config, total: int) -> int:
    """The step after which weights are averaged."""
    return round((config.trainer.swa_start or 0.0) * total)


def _penalise(task: Task, l1: float, l2: float) -> None:
    penalised = weights(task.model)

    def add_penalty(loss: Tensor) -> Tensor:
        trained = [weight for weight in penalised if weight.requires_grad]
        return loss + penalty(trained, l1, l2) if trained else loss

    task.penalised = add_penalty


class LowerOnPlateau(pl.Callback):
    """Lowers the learning rate when the validation loss no longer falls; survives a resume.

    All ranks have the same validation loss, so they lower it together.
    """

    def __init__(self, plateau: Plateau) -> None:
        self.plateau = plateau

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.lr_factor = self.plateau.factor

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.lr_factor = self.plateau.after(pl_module.val_metrics["val_loss"])

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.plateau.best, "waited": self.plateau.waited, "factor": self.plateau.factor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.plateau.best, self.plateau.waited = state_dict["best"], state_dict["waited"]
        self.plateau.factor = state_dict["factor"]
