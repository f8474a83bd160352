"""Regression: one or more numbers."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn

from scaledl.config.schema import TaskConfig
from scaledl.data import Batch, DataSpec
from scaledl.errors import UsageError
from scaledl.runtime.outputs import OutputKind, OutputSpec
from scaledl.runtime.signature import Outputs
from scaledl.tasks.base import Task
from scaledl.tasks.losses import loss_fn, mean_over_samples
from scaledl.tasks.meter import Pairs


class RegressionTask(Task):
    """Standardised numbers [B, K] against float32 [B, K] in the units of the data.

    The loss is of standardised numbers (`DataSpec.target_mean`, `target_std`), all metrics are in the data's units.
    A number that is NaN is not there, and counts for nothing.
    """

    target_mean: Tensor
    target_std: Tensor
    targets = frozenset({"numbers"})
    kind: ClassVar[OutputKind] = "numbers"

    @classmethod
    def takes_unlabeled(cls, config: TaskConfig) -> bool:
        return True

    @classmethod
    def outputs(cls, spec: DataSpec, config: TaskConfig) -> Outputs:
        for name, classes in zip(spec.labels, spec.target_classes, strict=bool(spec.target_classes)):
            if classes:
                raise UsageError(
                    f"task.name: got {config.name}, and {name!r} of data.source {spec.source} is one of the classes "
                    f"{', '.join(classes[:5])}; allowed: multi_task, with a head of kind class for it"
                )
        return Outputs(len(spec.labels))

    @classmethod
    def output_spec(cls, spec: DataSpec, config: TaskConfig) -> OutputSpec:
        made = super().output_spec(spec, config)
        return dataclasses.replace(made, mean=spec.target_mean, std=spec.target_std)

    def __init__(self, model: nn.Module, config: TaskConfig, spec: DataSpec) -> None:
        super().__init__(model, config, spec)
        self._loss_fn = loss_fn(config)
        mean, std = spec.target_mean or [0.0] * self.num_outputs, spec.target_std or [1.0] * self.num_outputs
        self.register_buffer("target_mean", torch.tensor(mean), persistent=False)
        self.register_buffer("target_std", torch.tensor(std), persistent=False)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        standardised, known = (batch.y - self.target_mean) / self.target_std, ~batch.y.isnan()
        if bool(known.all()):
            return mean_over_samples(self._loss_fn(output, standardised, self.config, None))
        filled = torch.where(known, standardised, output.detach().float())
        values = self._loss_fn(output, filled, self.config, None)
        return mean_over_samples(values, known if values.shape == known.shape else None)

    def judged(self, result: dict[str, Tensor], batch: Batch) -> Pairs:
        return {"outputs": (result["output"].float() * self.target_std + self.target_mean, batch.y)}
