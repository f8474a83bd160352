"""Classification: one class of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaledl.config.schema import TaskConfig
from scaledl.data import Batch, DataModule, DataSpec
from scaledl.data.arrays import IGNORED
from scaledl.errors import UsageError
from scaledl.runtime.outputs import OutputKind
from scaledl.runtime.signature import Outputs
from scaledl.tasks.base import Task
from scaledl.tasks.losses import loss_fn, may_be_masked, mean_over_samples
from scaledl.tasks.meter import Pairs


class ClassificationTask(Task):
    """Logits [B, K] against labels int64 [B] or shares of the classes float32 [B, K].

    What is made of them fits logits [B, K, ...] against int64 [B, ...] as well, IGNORED where there is no label. Label
    smoothing (Szegedy et al. 2016) and class weights in training only.
    """

    targets = frozenset({"class"})
    kind: ClassVar[OutputKind] = "class"

    @classmethod
    def outputs(cls, spec: DataSpec, config: TaskConfig) -> Outputs:
        return Outputs(len(spec.labels))

    def __init__(self, model: nn.Module, config: TaskConfig, spec: DataSpec) -> None:
        super().__init__(model, config, spec)
        self._plain = config.model_copy(update={"label_smoothing": 0.0})
        self._loss_fn = loss_fn(config)
        self._weight: Tensor | None = None

    def prepare(self, data: DataModule) -> None:
        self._weight = class_weights(self.config, data.class_counts())

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        config = self.config if self.training else self._plain
        smoothed = config.label_smoothing > 0 and may_be_masked(output)
        if self._weight is None and batch.y.ndim == 1 and config.loss in (None, "cross_entropy") and not smoothed:
            return F.cross_entropy(output, batch.y, label_smoothing=config.label_smoothing)
        return mean_over_samples(self.values(output, batch.y), self._counted(batch.y, output))

    def values(self, output: Tensor, y: Tensor) -> Tensor:
        """The loss of each element, or what one's own function gives."""
        config = self.config if self.training else self._plain
        weight = None if self._weight is None or not self.training else self._weight.to(output.device)
        return self._loss_fn(output, y, config, weight)

    def _counted(self, y: Tensor, output: Tensor) -> Tensor | None:
        return y != IGNORED if y.ndim == output.ndim - 1 and y.ndim > 1 else None

    def judged(self, result: dict[str, Tensor], batch: Batch) -> Pairs:
        output, y = result["output"].movedim(1, -1).flatten(0, -2), batch.y
        labels = (y.argmax(1) if y.is_floating_point() else y).flatten()
        counted = labels != IGNORED
        return {"outputs": (output[counted], labels[counted]) if not bool(counted.all()) else (output, labels)}

    def check(self, batch: Batch) -> None:
        known = batch.y[batch.y != IGNORED]
        if len(known) and not 0 <= int(known.min()) <= int(known.max()) < self.num_outputs:
            raise UsageError(
                f"labels run from {int(known.min())} to {int(known.max())}; allowed: 0 to {self.num_outputs - 1}"
            )


def class_weights(config: TaskConfig, counts: Sequence[int]) -> Tensor | None:
    """float32 [K] for classes that occur so often, of mean 1 over their samples; None where all weigh the same.

    Balanced: N / (K * N_k), as scikit-learn's `compute_class_weight`; a class that does not occur gets 1.

    Raises UsageError for another number of weights.
    """
    if config.class_weights is None:
        return None
    number = torch.tensor(counts, dtype=torch.float64)
    if config.class_weights == "balanced":
        return torch.where(number > 0, number.sum() / (len(counts) * number), 1.0).float()
    if len(config.class_weights) != len(counts):
        raise UsageError(
            f"task.class_weights: got {len(config.class_weights)}; allowed: {len(counts)}, one for each class"
        )
    given = torch.tensor(config.class_weights, dtype=torch.float64)
    return (given * number.sum() / (given * number).sum()).float()
