"""Accuracy, loss and confusion matrix of anything that turns inputs into logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from scaledl.errors import UsageError


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures over one pass through a split.

    Attributes:
        accuracy: share of samples whose largest logit is the true class's, 0..1.
        loss: mean cross-entropy, nats; NaN or infinite where the outputs are.
        confusion: int64 [C, C], rows true classes, columns predicted ones.
        count: samples.
        correct: bool [N], in the loader's order.
    """

    accuracy: float
    loss: float
    confusion: Tensor
    count: int
    correct: Tensor


def evaluate(
    predict: Callable[[Tensor], Tensor], loader: Iterable[tuple[Tensor, Tensor, Tensor]], num_classes: int
) -> Evaluation:
    """Run `predict` over every batch, without gradients. A module must be in eval mode already.

    Args:
        predict: float32 [B, *in_shape], normalised -> logits [B, num_classes].
        loader: batches (x, y, ids).

    Raises:
        UsageError: no samples, outputs of another shape, or labels outside 0..num_classes-1.
    """
    losses: list[Tensor] = []
    predicted: list[Tensor] = []
    true: list[Tensor] = []
    with torch.inference_mode():
        for x, y, _ in loader:
            logits = predict(x).to("cpu", torch.float32)
            _check(logits, y, num_classes)
            losses.append(F.cross_entropy(logits, y, reduction="sum").double())
            predicted.append(logits.argmax(1))
            true.append(y)
    if not true:
        raise UsageError("nothing to evaluate: the split has no samples")
    return _summarize(torch.stack(losses).sum().item(), torch.cat(predicted), torch.cat(true), num_classes)


def _summarize(total_loss: float, predicted: Tensor, true: Tensor, num_classes: int) -> Evaluation:
    count = len(true)
    correct = predicted == true
    cells = torch.bincount(true * num_classes + predicted, minlength=num_classes**2)
    return Evaluation(
        accuracy=correct.sum().item() / count,
        loss=total_loss / count,
        confusion=cells.view(num_classes, num_classes).clone(),
        count=count,
        correct=correct.clone(),
    )


def _check(logits: Tensor, y: Tensor, num_classes: int) -> None:
    if logits.shape != (len(y), num_classes):
        raise UsageError(
            f"the model gives outputs {list(logits.shape)} for {len(y)} samples of {num_classes} classes; "
            f"expected {[len(y), num_classes]}: it belongs to other data"
        )
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < num_classes:
        raise UsageError(f"labels run from {int(y.min())} to {int(y.max())}; allowed: 0 to {num_classes - 1}")
