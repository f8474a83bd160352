"""Training steps that leave nothing behind: on a fresh model, without a run, a Trainer or other ranks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import torch
from torch import Tensor

from scaledl.config import Config
from scaledl.data import Batch, DataModule
from scaledl.distributed.ranks import Ranks
from scaledl.errors import UsageError
from scaledl.models.structure import Model
from scaledl.tasks.own_steps import OwnSteps
from scaledl.train.learner import make_learner
from scaledl.train.settings import fresh_settings, uses_gpu


class Rehearsal:
    """A task with its optimizer on one device. `model` is trained, so give it one to waste."""

    def __init__(self, config: Config, data: DataModule, model: Model) -> None:
        self.config, self.data = config, data
        self.settings = fresh_settings(config, data, model, Ranks())
        torch.set_num_threads(self.settings.num_threads)
        self.device = torch.device("cuda" if uses_gpu(config) else "cpu")
        learner = make_learner(config, self.settings, data, model, Ranks())
        if isinstance(learner.task, OwnSteps):
            name = type(model.module).__name__
            raise UsageError(
                f"model.name: {name} learns by its own steps, which only a training can run; fix: search its arguments "
                "with `scaledl tune`, in tune.space.model.args.KEY"
            )
        self.task = learner.task.to(self.device)
        if learner.plan.freezes:
            batchnorm_eval = config.transfer.frozen_batchnorm == "eval"
            learner.plan.switch_(self.task.model, 0, batchnorm_eval=batchnorm_eval)
        assert self.task.optimizer_fn is not None
        self.optimizer: Any = self.task.optimizer_fn(self.task.model)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Training batches as a training gets them, one epoch after the other."""
        config = self.config
        loader = self.task.train_loader(self.data, batch_size, config.data.augment, sampling=config.data.sampling)
        for epoch in count():
            loader.set_epoch(epoch)
            yield from loader

    def loss_of(self, batch: Batch) -> Tensor:
        """Of one micro-batch, with penalties."""
        batch = self.task.transfer_batch_to_device(batch, self.device, 0)
        bf16 = self.settings.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            result = self.task.step(batch)
        return self.task.penalised(self.task.auxiliary(batch, result))

    def step(self, micro_batches: list[Batch], lr: float) -> float:
        """One optimizer step at this learning rate -> the loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        samples, total = sum(len(batch.ids) for batch in micro_batches), 0.0
        for batch in micro_batches:
            loss = self.loss_of(batch) * (len(batch.ids) / samples)
            loss.backward()
            total += loss.item()
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        self.task.configure_gradient_clipping(self.optimizer, self.config.trainer.gradient_clip)
        self.optimizer.step()
        return total
