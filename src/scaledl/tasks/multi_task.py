"""Several things learned side by side, by heads on one model (Caruana 1997)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaledl.config.figures import Scale
from scaledl.config.schema import HeadConfig, TaskConfig
from scaledl.config.traits import HEAD_FIGURES
from scaledl.data import Batch, DataSpec
from scaledl.errors import UsageError
from scaledl.runtime.outputs import OutputKind, OutputSpec, Part
from scaledl.runtime.signature import Outputs
from scaledl.tasks.base import Task
from scaledl.tasks.distillation import distance
from scaledl.tasks.losses import mean_over_samples
from scaledl.tasks.meter import Pairs, gauge
from scaledl.tasks.metrics import Gauge, Judged

SCALES: dict[str, Scale] = {"class": "classes", "labels": "labels", "numbers": "numbers"}
KINDS: dict[str, OutputKind] = {"class": "class", "labels": "classes", "numbers": "numbers"}


@dataclasses.dataclass(frozen=True)
class Head:
    """One of them: which columns of the targets it is about, and which outputs are its own."""

    name: str
    config: HeadConfig
    columns: tuple[int, ...]
    outputs: slice
    labels: tuple[str, ...] = ()  # of its outputs: classes, where they have names, else columns

    @property
    def width(self) -> int:
        width: int = self.outputs.stop - self.outputs.start
        return width


class MultiTask(Task):
    """Outputs [B, sum of widths], those of each head behind each other, against float32 [B, columns].

    A head of kind class has a logit for each class against one column of whole numbers 0, 1, …; of kind labels a logit
    for each column of 0 and 1; of kind numbers a standardised number for each column. The loss is the weighted sum of
    cross entropy, binary cross entropy and squared error. A target that is NaN is not there, and counts for nothing.

    Heads are the outputs of the model's last layer. What is learned of steps or pixels cannot be beside them, as a
    sample has one row of targets and a model one form of outputs.
    """

    targets = frozenset({"numbers", "classes"})
    learns = "several columns of each sample (data.prepare.targets), and nothing of its steps or pixels"
    kind: ClassVar[OutputKind] = "mixed"
    target_mean: Tensor
    target_std: Tensor

    @classmethod
    def takes_unlabeled(cls, config: TaskConfig) -> bool:
        return True

    @classmethod
    def outputs(cls, spec: DataSpec, config: TaskConfig) -> Outputs:
        return Outputs(heads_of(spec, config)[-1].outputs.stop)

    @classmethod
    def output_spec(cls, spec: DataSpec, config: TaskConfig) -> OutputSpec:
        mean, std, parts = [], [], []
        for head in heads_of(spec, config):
            scaled = head.config.kind == "numbers" and bool(spec.target_mean)
            mean += [spec.target_mean[i] for i in head.columns] if scaled else [0.0] * head.width
            std += [spec.target_std[i] for i in head.columns] if scaled else [1.0] * head.width
            parts.append(Part(head.name, head.config.kind, head.width, head.labels))
        made = super().output_spec(spec, config)
        return dataclasses.replace(made, mean=tuple(mean), std=tuple(std), parts=tuple(parts))

    def __init__(self, model: nn.Module, config: TaskConfig, spec: DataSpec) -> None:
        self._heads = heads_of(spec, config)
        super().__init__(model, config, spec)
        width = len(spec.labels)
        for name, values in (("target_mean", spec.target_mean), ("target_std", spec.target_std)):
            plain = [0.0 if name == "target_mean" else 1.0] * width
            self.register_buffer(name, torch.tensor(list(values) or plain), persistent=False)

    def gauges(self) -> dict[str, Gauge]:
        made = {}
        for head in self._heads:
            figure = HEAD_FIGURES[head.config.kind]
            made[f"{head.name}_{figure}"] = gauge(figure, Judged(SCALES[head.config.kind], head.width), head.name)
        return made

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        losses = [head.config.weight * self._loss_of(head, output[:, head.outputs], batch.y) for head in self._heads]
        return torch.stack(losses).sum()

    def _loss_of(self, head: Head, output: Tensor, y: Tensor) -> Tensor:
        columns = list(head.columns)
        truths = y[:, columns]
        known = ~truths.isnan()
        truths, output = truths.nan_to_num(0.0), output.float()
        if head.config.kind == "class":
            values = F.cross_entropy(output, truths[:, 0].long(), reduction="none").unsqueeze(1)
        elif head.config.kind == "labels":
            values = F.binary_cross_entropy_with_logits(output, truths, reduction="none")
        else:
            values = (output - (truths - self.target_mean[columns]) / self.target_std[columns]).square()
        return mean_over_samples(values, known)

    def judged(self, result: dict[str, Tensor], batch: Batch) -> Pairs:
        return {head.name: self._pair(head, result["output"][:, head.outputs], batch.y) for head in self._heads}

    def _pair(self, head: Head, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Of samples whose class is there, all of whose labels are, or any of whose numbers."""
        columns = list(head.columns)
        truths = y[:, columns]
        absent = truths.isnan()
        known = ~(absent.all(1) if head.config.kind == "numbers" else absent.any(1))
        output, truths = output[known], truths[known]
        if head.config.kind == "class":
            return output, truths[:, 0].long()
        if head.config.kind == "labels":
            return output, truths
        return output.float() * self.target_std[columns] + self.target_mean[columns], truths

    def soft_loss(self, result: dict[str, Tensor], teacher: Tensor, temperature: float, batch: Batch) -> Tensor:
        losses = []
        for head in self._heads:
            student, other = (outputs[:, head.outputs] for outputs in (result["output"], teacher))
            losses.append(head.config.weight * distance(KINDS[head.config.kind], student, other, temperature))
        return torch.stack(losses).sum()

    def check(self, batch: Batch) -> None:
        for head in self._heads:
            known = batch.y[:, list(head.columns)]
            known = known[~known.isnan()]
            most = head.width - 1 if head.config.kind == "class" else 1
            wrong = (known != known.round()) | (known < 0) | (known > most)
            if head.config.kind != "numbers" and bool(wrong.any()):
                raise UsageError(
                    f"task.heads.{head.name}: targets run from {float(known.min()):g} to {float(known.max()):g}; "
                    f"allowed: whole numbers from 0 to {most}"
                )


def heads_of(spec: DataSpec, config: TaskConfig) -> list[Head]:
    """The heads with their places among targets and outputs. Raises UsageError for a column that is not there, or that
    holds something else."""
    heads, start = [], 0
    for name, head in config.heads.items():
        missing = [column for column in head.columns if column not in spec.labels]
        if missing:
            raise UsageError(f"task.heads.{name}.columns: got {missing[0]!r}; allowed: {', '.join(spec.labels)}")
        places = tuple(spec.labels.index(column) for column in head.columns)
        names = [spec.target_classes[place] if spec.target_classes else () for place in places]
        _check_kind(name, head, names)
        count = head.classes or len(names[0]) if head.kind == "class" else len(places)
        labels = names[0] if head.kind == "class" else tuple(head.columns)
        heads.append(Head(name, head, places, slice(start, start + count), labels))
        start += count
    return heads


def _check_kind(name: str, head: HeadConfig, names: Sequence[Sequence[str]]) -> None:
    """`names`: of each column those of its classes, where it holds such."""
    if head.kind == "class":
        known = len(names[0])
        if not known and head.classes is None:
            raise UsageError(
                f"task.heads.{name}.classes: missing, and column {head.columns[0]!r} holds numbers; allowed: how many "
                "classes there are, or a set prepared with that column in data.prepare.categorical"
            )
        if known and head.classes not in (None, known):
            raise UsageError(
                f"task.heads.{name}.classes: got {head.classes}; allowed: {known}, as column {head.columns[0]!r} has "
                f"{', '.join(names[0][:5])}"
            )
        return
    most = 2 if head.kind == "labels" else 0
    for column, classes in zip(head.columns, names, strict=True):
        if len(classes) > most:
            raise UsageError(
                f"task.heads.{name}.columns: got {column!r}, which is one of the classes {', '.join(classes[:5])}; "
                f"allowed with kind={head.kind}: columns of {'0 and 1' if most else 'numbers'}; fix: kind=class"
            )
