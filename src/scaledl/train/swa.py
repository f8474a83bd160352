"""Stochastic weight averaging: the mean of the weights at the ends of the last epochs (Izmailov et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from scaledl.data import Batch
from scaledl.distributed.link import current_link
from scaledl.tasks.base import Task


class WeightAverage(pl.Callback):
    """Equal mean of the weights after each epoch beyond `start_step`, in place of the weights during validation.

    Statistics of BatchNorm belong to weights: those of the mean are measured anew, in a pass over the epoch's training
    batches (`batches_fn` of its number), of which each rank sees its share.
    """

    def __init__(self, start_step: int, total_steps: int, batches_fn: Callable[[int], Iterable[Batch]]) -> None:
        self.start_step = start_step
        self.total_steps = total_steps
        self.batches_fn = batches_fn
        self.average: dict[str, Tensor] = {}
        self.count = 0
        self._learning: list[_BatchNorm] = []
        self._weights: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx + 1 >= trainer.num_training_batches or trainer.global_step >= self.total_steps:
            self._learning = _learning(pl_module.model)

    @torch.no_grad()
    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.global_step <= self.start_step:
            return
        state = pl_module.model.state_dict()
        self._weights = {name: value.detach().clone() for name, value in state.items()}
        self._include(state, {name for name, _ in pl_module.model.named_parameters()})
        pl_module.model.load_state_dict(self.average)
        if self._learning:
            self._measure(trainer, pl_module)
            self.average = {name: value.detach().clone() for name, value in pl_module.model.state_dict().items()}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self._weights:
            pl_module.model.load_state_dict(self._weights)
            self._weights = {}

    def _include(self, state: dict[str, Tensor], parameters: set[str]) -> None:
        self.count += 1
        for name, value in state.items():
            if name in parameters and name in self.average:
                average = self.average[name].to(value.device)
                self.average[name] = average.lerp_(value, 1 / self.count)
            else:
                self.average[name] = value.detach().clone()

    def _measure(self, trainer: pl.Trainer, task: Task) -> None:
        momenta = [layer.momentum for layer in self._learning]
        for layer in self._learning:
            layer.reset_running_stats()
            layer.momentum = None  # the mean over batches
            layer.train()
        for batch in self.batches_fn(trainer.current_epoch):
            with trainer.precision_plugin.val_step_context():
                task.step(task.transfer_batch_to_device(batch, task.device, 0))
            current_link().tick(trainer.global_step)
        for layer, momentum in zip(self._learning, momenta, strict=True):
            layer.momentum = momentum
            layer.eval()
            for statistic in (layer.running_mean, layer.running_var):
                assert statistic is not None
                total = task.ranks.sum_(statistic.detach().double().cpu())
                statistic.copy_(total / task.ranks.world_size)

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average, "count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.average, self.count = state_dict["average"], state_dict["count"]


def _learning(module: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers that still follow their inputs: not those that are frozen."""
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    return [layer for layer in layers if layer.training and layer.track_running_stats]
