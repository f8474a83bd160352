"""Rows of labels for longer rows of steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from scaledl.config.schema import TaskConfig
from scaledl.data import DataModule
from scaledl.errors import UsageError
from scaledl.tasks.ctc import ctc, needed_steps, spelled
from scaledl.tasks.transcription import edit_distance

pytestmark = pytest.mark.unit

IGNORED = -100


@pytest.fixture(scope="module")
def pulses(make_data: Callable[..., DataModule]) -> DataModule:
    """Series with two to four pulses of three heights, somewhere; the labels are the heights in their order."""
    generator = torch.Generator().manual_seed(0)
    x, y = 0.1 * torch.randn(240, 1, 24, generator=generator), torch.full((240, 24), IGNORED)
    for row, labels in zip(x, y, strict=True):
        heights = torch.randint(0, 3, (int(torch.randint(2, 5, (1,), generator=generator)),), generator=generator)
        for number, height in enumerate(heights.tolist()):
            start = 6 * number + int(torch.randint(0, 3, (1,), generator=generator))
            row[0, start : start + 2] += 1.0 + height
            labels[number] = height
    return make_data(x, y, ("low", "middle", "high"), "tags")


def test_it_spells_what_it_sees(train: Callable[..., Any], pulses: DataModule) -> None:
    trained = train(
        pulses,
        {"name": "transcription"},
        "conv_steps",
        **{"trainer.epochs": 25, "optimizer.lr": 0.05, "data.batch_size": 16},
    )
    assert trained.after.headline == "label_error_rate"
    assert trained.before.score > 0.7
    assert trained.after.score < 0.15


def test_the_loss_sums_over_all_paths() -> None:
    logits, labels = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0)), [0, 1]
    p = logits[0].softmax(0)
    total = 0.0
    for path in itertools.product(range(3), repeat=4):
        row = torch.nn.functional.one_hot(torch.tensor(path), 3).T.unsqueeze(0).float()
        if spelled(row) == [labels]:
            total += float(torch.stack([p[k, t] for t, k in enumerate(path)]).prod())
    targets = torch.tensor([[0, IGNORED, 1, IGNORED]])
    found = ctc(logits, targets, TaskConfig(name="transcription"))
    assert float(found) == pytest.approx(-float(torch.tensor(total).log()) / 2, rel=1e-5)


def test_repeats_are_one_and_blanks_are_none() -> None:
    path = torch.tensor([0, 0, 2, 0, 1, 1, 2, 2])
    assert spelled(torch.nn.functional.one_hot(path, 3).T.unsqueeze(0).float()) == [[0, 0, 1]]


@pytest.mark.parametrize(
    ("one", "other", "edits"), [([], [], 0), ([1], [], 1), ([1, 2], [2, 1], 2), ([1, 2, 3], [1, 9, 3], 1)]
)
def test_edit_distance(one: list[int], other: list[int], edits: int) -> None:
    assert edit_distance(one, other) == edit_distance(other, one) == edits


def test_labels_that_no_path_can_spell(train: Callable[..., Any], make_data: Callable[..., DataModule]) -> None:
    assert needed_steps(torch.tensor([[0, 0, 1, IGNORED], [0, IGNORED, 1, 2]])).tolist() == [4, 3]
    labels = torch.zeros(20, 4, dtype=torch.int64)
    data = make_data(torch.randn(20, 1, 4), labels, ("a", "b"), "tags")
    with pytest.raises(UsageError, match="7 for the longest row of labels, and inputs have 4"):
        train(data, {"name": "transcription"}, "conv_steps")
