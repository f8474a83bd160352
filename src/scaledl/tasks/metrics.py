"""Metrics by name: torchmetrics, each told what outputs it gets and how it sees them.

A function takes the scale of a task's outputs and gives a `Gauge`. Mean over the classes means over those that occur,
in the truth or in what was said, as scikit-learn has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchmetrics
from torch import Tensor
from torchmetrics import classification, regression

from scaledl.config.figures import Scale

View = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
_ROUNDING = 1e-13  # of a sum of squares in double precision


@dataclass(frozen=True)
class Gauge:
    """A metric, what it makes of outputs and truths before it sees them, and which pair of a task it is about."""

    metric: torchmetrics.Metric
    view: View = lambda outputs, truths: (outputs, truths)
    about: str = "outputs"


@dataclass(frozen=True)
class Judged:
    """What outputs are judged as.

    Attributes:
        scale: classes and tokens: logits [M, K] against int64 [M]; labels: logits [M, K] against 0 and 1; numbers: both
            [M, K]. About "tokens" and "characters" there are nats of each text, [B], against how many there are.
        count: K.
        threshold: of labels.
    """

    scale: Scale
    count: int
    threshold: float = 0.5

    def decided(self, name: str, **options: Any) -> Gauge:
        """A metric of what was decided: the class with the largest output, the labels above the threshold."""
        return Gauge(self._classifier(name, **options), self._decisions)

    def graded(self, name: str, **options: Any) -> Gauge:
        """A metric of probabilities."""
        return Gauge(self._classifier(name, **options), self._probabilities)

    def _classifier(self, name: str, **options: Any) -> torchmetrics.Metric:
        kind, size = ("Multilabel", "num_labels") if self.scale == "labels" else ("Multiclass", "num_classes")
        metric: torchmetrics.Metric = getattr(classification, f"{kind}{name}")(
            **{size: self.count}, validate_args=False, **options
        )
        return metric

    def _decisions(self, outputs: Tensor, truths: Tensor) -> tuple[Tensor, Tensor]:
        if self.scale == "labels":
            return (outputs.float() >= math.log(self.threshold / (1 - self.threshold))).long(), truths.long()
        return outputs.argmax(1), truths

    def _probabilities(self, outputs: Tensor, truths: Tensor) -> tuple[Tensor, Tensor]:
        if self.scale == "labels":
            return outputs.float().sigmoid(), truths.long()
        return outputs.float().softmax(1), truths


class Share(torchmetrics.Metric):
    """How many are right of all: counted in whole numbers, divided once."""

    right: Tensor
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("right", torch.zeros((), dtype=torch.int64), "sum")
        self.add_state("seen", torch.zeros((), dtype=torch.int64), "sum")

    def update(self, decided: Tensor, truths: Tensor) -> None:
        self.right += (decided == truths).sum()
        self.seen += truths.numel()

    def compute(self) -> Tensor:
        return self.right.double() / self.seen.clamp(min=1)


class Gathered(torchmetrics.Metric):
    """Outputs as they come, one behind the other."""

    values: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("values", [], "cat")

    def update(self, outputs: Tensor, truths: Tensor) -> None:
        self.values.append(outputs)

    def compute(self) -> Tensor:
        return torch.cat(self.values)


class BalancedAccuracy(classification.MulticlassConfusionMatrix):
    """The recall of each class that occurs in the truth, and of these the mean."""

    def compute(self) -> Tensor:
        matrix = self.confmat.double()
        return (matrix.diag() / matrix.sum(1)).nanmean()


class MulticlassAUROC(classification.MulticlassAUROC):
    """Of each class against the rest, where both occur, and of these the mean."""

    def __init__(self, count: int) -> None:
        super().__init__(count, average="none", validate_args=False)

    def compute(self) -> Tensor:  # type: ignore[override]
        truths = torch.cat(list(self.target))
        share = torch.bincount(truths, minlength=self.num_classes) / len(truths)
        return super().compute()[(share > 0) & (share < 1)].mean()


class MultilabelAUROC(classification.MultilabelAUROC):
    """Of each label, where it is there of some and not of others, and of these the mean."""

    def __init__(self, count: int) -> None:
        super().__init__(count, average="none", validate_args=False)

    def compute(self) -> Tensor:  # type: ignore[override]
        share = torch.cat(list(self.target)).double().mean(0)
        return super().compute()[(share > 0) & (share < 1)].mean()


class Entropy(torchmetrics.Metric):
    """Cross entropy by what it is divided by: tokens, or characters. In nats, then as `result` has it."""

    nats: Tensor
    size: Tensor

    def __init__(self, result: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._result = result
        self.add_state("nats", torch.zeros((), dtype=torch.float64), "sum")
        self.add_state("size", torch.zeros((), dtype=torch.float64), "sum")

    def update(self, nats: Tensor, sizes: Tensor) -> None:
        self.nats += nats.double().sum()
        self.size += sizes.double().sum()

    def compute(self) -> Tensor:
        return self._result(self.nats / self.size.clamp(min=1))


def accuracy(judged: Judged) -> Gauge:
    return Gauge(Share(), judged._decisions)


def balanced_accuracy(judged: Judged) -> Gauge:
    return Gauge(BalancedAccuracy(judged.count, validate_args=False), judged._decisions)


def top5_accuracy(judged: Judged) -> Gauge:
    def among(outputs: Tensor, truths: Tensor) -> tuple[Tensor, Tensor]:
        found = (outputs.topk(min(5, judged.count), 1).indices == truths.unsqueeze(1)).any(1)
        return found, torch.ones_like(found)

    return Gauge(Share(), among)


def exact_match(judged: Judged) -> Gauge:
    def all_right(outputs: Tensor, truths: Tensor) -> tuple[Tensor, Tensor]:
        decided, true = judged._decisions(outputs, truths)
        found = (decided == true).all(1)
        return found, torch.ones_like(found)

    return Gauge(Share(), all_right)


def precision(judged: Judged) -> Gauge:
    return judged.decided("Precision", average="macro")


def recall(judged: Judged) -> Gauge:
    return judged.decided("Recall", average="macro")


def specificity(judged: Judged) -> Gauge:
    return judged.decided("Specificity", average="macro")


def f1(judged: Judged) -> Gauge:
    return judged.decided("F1Score", average="macro")


def iou(judged: Judged) -> Gauge:
    return judged.decided("JaccardIndex", average="macro")


def matthews(judged: Judged) -> Gauge:
    return judged.decided("MatthewsCorrCoef")


def auroc(judged: Judged) -> Gauge:
    made = MulticlassAUROC if judged.scale == "classes" else MultilabelAUROC
    return Gauge(made(judged.count), judged._probabilities)


def average_precision(judged: Judged) -> Gauge:
    return judged.graded("AveragePrecision", average="macro")


def calibration_error(judged: Judged) -> Gauge:
    return judged.graded("CalibrationError", n_bins=15)


def mse(judged: Judged) -> Gauge:
    return _of_numbers(regression.MeanSquaredError(), _known)


def rmse(judged: Judged) -> Gauge:
    """The root of the mean squared error of each number, and of these the mean."""
    return _of_numbers(OverNumbers(judged.count, _rmse))


def _rmse(sums: OverNumbers) -> Tensor:
    return (sums.squared_errors / sums.seen).sqrt()[sums.seen > 0].mean()


class OverNumbers(torchmetrics.Metric):
    """Of each number, over the samples that have it: how many, and the sums that figures are made of; then a mean over
    the numbers that any sample has. A truth that is NaN is not there."""

    seen: Tensor
    squared_errors: Tensor
    truths: Tensor
    squared_truths: Tensor

    def __init__(self, count: int, figure: Callable[[OverNumbers], Tensor]) -> None:
        super().__init__()
        self._figure = figure
        for name in ("seen", "squared_errors", "truths", "squared_truths"):
            self.add_state(name, torch.zeros(count, dtype=torch.float64), "sum")

    def update(self, outputs: Tensor, truths: Tensor) -> None:
        outputs, truths = (values.reshape(len(values), -1) for values in (outputs, truths))
        known = ~truths.isnan()
        truths = truths.nan_to_num(0.0)
        self.seen += known.sum(0)
        self.squared_errors += ((outputs - truths).square() * known).sum(0)
        self.truths += truths.sum(0)
        self.squared_truths += truths.square().sum(0)

    def compute(self) -> Tensor:
        return self._figure(self)


def mae(judged: Judged) -> Gauge:
    return _of_numbers(regression.MeanAbsoluteError(), _known)


def r2(judged: Judged) -> Gauge:
    """Of each number, and of these the mean."""
    return _of_numbers(OverNumbers(judged.count, _r2))


def _r2(sums: OverNumbers) -> Tensor:
    """Where all truths are the same it is 1 without an error, else 0; whatever units they have."""
    errors, spread = sums.squared_errors, sums.squared_truths - sums.truths.square() / sums.seen
    least = _ROUNDING * sums.squared_truths
    values = torch.where(spread > least, 1 - errors / spread, (errors <= least).double())
    return values[sums.seen > 0].mean()


def _of_numbers(metric: torchmetrics.Metric, view: View = lambda outputs, truths: (outputs, truths)) -> Gauge:
    """In double precision: sums of squares of large numbers that hardly differ need it."""
    metric.set_dtype(torch.float64)
    return Gauge(metric, lambda outputs, truths: view(outputs.double().contiguous(), truths.double().contiguous()))


def _known(outputs: Tensor, truths: Tensor) -> tuple[Tensor, Tensor]:
    """Those that are there."""
    known = ~truths.isnan()
    return (outputs, truths) if bool(known.all()) else (outputs[known], truths[known])


def perplexity(judged: Judged) -> Gauge:
    return Gauge(Entropy(torch.exp), about="tokens")


def bits_per_token(judged: Judged) -> Gauge:
    return Gauge(Entropy(_bits), about="tokens")


def bits_per_character(judged: Judged) -> Gauge:
    return Gauge(Entropy(_bits), about="characters")


def _bits(nats: Tensor) -> Tensor:
    return nats / math.log(2)
