"""Labels that a model doubts."""

from __future__ import annotations

import pytest
import torch

from scaledl.data.arrays import NO_CLASS
from scaledl.data.audit import doubted

pytestmark = pytest.mark.unit


def shares_of(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows)


def test_a_sure_other_class_is_suggested() -> None:
    shares = shares_of([0.9, 0.1], [0.8, 0.2], [0.05, 0.95], [0.1, 0.9], [0.02, 0.98])
    found = list(doubted(shares, torch.tensor([0, 0, 1, 1, 0])))
    assert [(row, label) for row, label, _ in found] == [(4, 1)]
    assert found[0][2] == pytest.approx(0.98)


def test_an_unsure_model_doubts_nothing() -> None:
    """As unsure of a class as it always is where that class is right."""
    shares = shares_of([0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.05, 0.95], [0.45, 0.55])
    assert list(doubted(shares, torch.tensor([0, 0, 1, 1, 0]))) == []


def test_a_class_that_nobody_carries_is_never_suggested() -> None:
    shares = shares_of([0.2, 0.1, 0.7], [0.1, 0.8, 0.1])
    assert list(doubted(shares, torch.tensor([0, 1]))) == []


def test_what_has_no_label_is_not_doubted_and_changes_nothing() -> None:
    shares = shares_of([0.9, 0.1], [0.8, 0.2], [0.05, 0.95], [0.1, 0.9], [0.02, 0.98], [0.99, 0.01], [0.01, 0.99])
    found = list(doubted(shares, torch.tensor([0, 0, 1, 1, 0, NO_CLASS, NO_CLASS])))
    assert found == list(doubted(shares[:5], torch.tensor([0, 0, 1, 1, 0])))


def test_wrong_labels_among_many_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    shares = torch.softmax(6 * torch.nn.functional.one_hot(labels, 3) + torch.randn(300, 3, generator=generator), 1)
    wrong = torch.arange(0, 300, 25)
    given = labels.clone()
    given[wrong] = (labels[wrong] + 1) % 3
    found = {row: label for row, label, _ in doubted(shares, given)}
    assert set(found) <= set(wrong.tolist())
    assert len(found) >= 9
    assert all(label == labels[row] for row, label in found.items())
