"""Transcription: a row of labels for a longer row of steps, where nothing says which step has which label."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from scaledl.config.schema import TaskConfig
from scaledl.data import Arrays, Batch, DataModule, DataSpec
from scaledl.data.arrays import IGNORED
from scaledl.errors import UsageError
from scaledl.runtime.outputs import OutputKind
from scaledl.runtime.signature import Outputs
from scaledl.tasks.base import Task
from scaledl.tasks.ctc import needed_steps, spelled
from scaledl.tasks.losses import loss_fn, mean_over_samples
from scaledl.tasks.meter import Pairs
from scaledl.tasks.metrics import Gauge


class TranscriptionTask(Task):
    """Logits [B, K + 1, T], the last one a blank, against int64 [B, T]: labels in their order, elsewhere IGNORED."""

    targets = frozenset({"tags"})
    kind: ClassVar[OutputKind] = "transcript"

    @classmethod
    def outputs(cls, spec: DataSpec, config: TaskConfig) -> Outputs:
        return Outputs(len(spec.labels) + 1, "steps")

    def __init__(self, model: nn.Module, config: TaskConfig, spec: DataSpec) -> None:
        super().__init__(model, config, spec)
        self._loss_fn = loss_fn(config)

    def prepare(self, data: DataModule) -> None:
        """Raises UsageError for labels that no path through the steps can spell."""
        if not isinstance(data.train, Arrays):
            return
        steps, longest = self.spec.in_shape[-1], int(needed_steps(data.train.labels).max())
        if longest > steps:
            raise UsageError(
                f"task.name: transcription needs a step for each label and one between equal ones: {longest} for the "
                f"longest row of labels, and inputs have {steps}; fix: shorter labels or longer inputs"
            )

    def gauges(self) -> dict[str, Gauge]:
        return {"label_error_rate": Gauge(EditDistance())}

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return mean_over_samples(self._loss_fn(output, batch.y, self.config, None))

    def judged(self, result: dict[str, Tensor], batch: Batch) -> Pairs:
        return {"outputs": (result["output"], batch.y)}


class EditDistance(Metric):
    """Labels to put in, take out or change (Levenshtein 1966), by how many there are in truth."""

    edits: Tensor
    labels: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("edits", torch.zeros((), dtype=torch.int64), "sum")
        self.add_state("labels", torch.zeros((), dtype=torch.int64), "sum")

    def update(self, outputs: Tensor, truths: Tensor) -> None:
        for said, true in zip(spelled(outputs), truths.cpu(), strict=True):
            known = true[true != IGNORED].tolist()
            self.edits += edit_distance(said, known)
            self.labels += len(known)

    def compute(self) -> Tensor:
        return self.edits.double() / self.labels.clamp(min=1)


def edit_distance(one: list[int], other: list[int]) -> int:
    """
    >>> edit_distance([1, 2, 3], [1, 3, 3, 4])
    2
    """
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        corner, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (a != b))
    return row[-1]
