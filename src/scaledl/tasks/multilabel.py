"""Several labels, any of which a sample may have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from scaledl.config.schema import TaskConfig
from scaledl.data import Batch, DataModule, DataSpec
from scaledl.errors import UsageError
from scaledl.runtime.outputs import OutputKind
from scaledl.runtime.signature import Outputs
from scaledl.tasks.base import Task
from scaledl.tasks.losses import loss_fn, mean_over_samples
from scaledl.tasks.meter import Pairs


class MultilabelTask(Task):
    """Logits [B, K] against float32 [B, K] of 0 and 1. Weights of labels in training only."""

    targets = frozenset({"classes"})
    kind: ClassVar[OutputKind] = "classes"

    @classmethod
    def outputs(cls, spec: DataSpec, config: TaskConfig) -> Outputs:
        return Outputs(len(spec.labels))

    def __init__(self, model: nn.Module, config: TaskConfig, spec: DataSpec) -> None:
        super().__init__(model, config, spec)
        self._loss_fn = loss_fn(config)
        self._weight: Tensor | None = None

    def prepare(self, data: DataModule) -> None:
        self._weight = label_weights(self.config, data.class_counts(), len(data.train))

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        weight = None if self._weight is None or not self.training else self._weight.to(output.device)
        return mean_over_samples(self._loss_fn(output, batch.y, self.config, weight))

    def judged(self, result: dict[str, Tensor], batch: Batch) -> Pairs:
        return {"outputs": (result["output"], batch.y)}


def label_weights(config: TaskConfig, counts: Sequence[int], samples: int) -> Tensor | None:
    """float32 [K], what each label weighs where it is there; balanced: how often it is not there for once that it is.

    Raises UsageError for another number of weights.
    """
    if config.class_weights is None:
        return None
    if config.class_weights == "balanced":
        there = torch.tensor(counts, dtype=torch.float64)
        return torch.where((there > 0) & (there < samples), (samples - there) / there, 1.0).float()
    if len(config.class_weights) != len(counts):
        raise UsageError(
            f"task.class_weights: got {len(config.class_weights)}; allowed: {len(counts)}, one for each label"
        )
    return torch.tensor(config.class_weights)
