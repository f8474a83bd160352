from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from scaledl.config.schema import TaskConfig
from scaledl.data import DataSpec
from scaledl.errors import UsageError
from scaledl.evaluate import Evaluation, evaluate, judge

pytestmark = pytest.mark.unit

Batches = Iterator[tuple[Tensor, Tensor, Tensor]]


def batches(logits: Tensor, labels: Tensor, size: int) -> Batches:
    """Batches whose inputs are the logits themselves."""
    for x, y in zip(logits.split(size), labels.split(size), strict=True):
        yield x, y, torch.arange(len(y))


def evaluated(predict: Callable[[Tensor], Tensor], loader: Batches, classes: int) -> Evaluation:
    spec = DataSpec("made-up", (classes,), tuple(map(str, range(classes))), (0.0,) * classes, (1.0,) * classes, "0")
    return evaluate(judge(predict, TaskConfig(), spec), loader)


@given(seed=st.integers(0, 10_000), count=st.integers(1, 40), classes=st.integers(2, 7), size=st.integers(1, 50))
def test_figures_do_not_depend_on_the_batches(seed: int, count: int, classes: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator)
    labels = torch.randint(classes, (count,), generator=generator)
    result = evaluated(lambda x: x, batches(logits, labels, size), classes)

    assert result.count == count
    assert result.accuracy == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    log_probabilities = logits.double() - logits.double().exp().sum(1, keepdim=True).log()
    assert result.loss == pytest.approx(-log_probabilities[range(count), labels].mean().item(), rel=1e-5)
    assert result.confusion is not None
    for true in range(classes):
        for predicted in range(classes):
            expected = ((labels == true) & (logits.argmax(1) == predicted)).sum()
            assert result.confusion[true, predicted] == expected


def test_rows_of_the_confusion_matrix_are_true_classes() -> None:
    logits = torch.tensor([[0.0, 5.0, 0.0]]).repeat(4, 1)
    result = evaluated(lambda x: x, batches(logits, torch.tensor([2, 2, 1, 0]), 3), 3)
    assert result.confusion is not None
    assert result.confusion.tolist() == [[0, 1, 0], [0, 1, 0], [0, 2, 0]]
    assert result.accuracy == 0.25


def test_no_gradients_are_kept() -> None:
    weight = torch.ones(3, requires_grad=True)
    seen = []

    def predict(x: Tensor) -> Tensor:
        seen.append((x * weight).requires_grad)
        return x * weight

    evaluated(predict, batches(torch.eye(3), torch.arange(3), 2), 3)
    assert seen == [False, False]


def test_nan_outputs_show_in_the_loss() -> None:
    logits = torch.tensor([[math.nan, 1.0], [0.0, 1.0]])
    assert math.isnan(evaluated(lambda x: x, batches(logits, torch.tensor([0, 1]), 2), 2).loss)


def test_nothing_to_evaluate() -> None:
    with pytest.raises(UsageError, match="no samples"):
        evaluated(lambda x: x, iter(()), 3)


def test_outputs_of_another_width() -> None:
    with pytest.raises(UsageError, match=r"\[4, 5\] for 4 samples; expected \[4, 3\]"):
        evaluated(lambda x: x, batches(torch.zeros(4, 5), torch.zeros(4, dtype=torch.int64), 4), 3)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_outside_the_classes(label: int) -> None:
    with pytest.raises(UsageError, match="allowed: 0 to 2"):
        evaluated(lambda x: x, batches(torch.zeros(1, 3), torch.tensor([label]), 1), 3)
