"""Classification: cross-entropy with label smoothing, accuracy."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from scaledl.config.schema import TaskConfig
from scaledl.data import Batch, DataSpec
from scaledl.runtime.signature import Outputs
from scaledl.tasks.base import Task


class ClassificationTask(Task):
    """Logits [B, K] against labels int64 [B] or shares of the classes float32 [B, K].

    Smoothing (Szegedy et al. 2016) in training only.
    """

    targets = frozenset({"class"})

    @classmethod
    def outputs(cls, spec: DataSpec, config: TaskConfig) -> Outputs:
        return Outputs(len(spec.labels))

    def __init__(self, model: nn.Module, config: TaskConfig) -> None:
        super().__init__(model)
        self.label_smoothing = config.label_smoothing

    def step(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.model(batch.x)
        smoothing = self.label_smoothing if self.training else 0.0
        return {"loss": F.cross_entropy(logits, batch.y, label_smoothing=smoothing), "output": logits}

    def metrics(self, result: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        labels = batch.y if batch.y.ndim == 1 else batch.y.argmax(dim=1)
        correct = result["output"].argmax(dim=1) == labels
        return {"loss": result["loss"].detach().float() * len(batch.y), "accuracy": correct.sum()}
