"""A class for each step or pixel, where there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import jaccard_score
from torch import nn

from scaledl.data import Batch, DataModule, normalize
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def rising(make_data: Callable[..., DataModule]) -> DataModule:
    """Series whose steps are tagged with whether they rise; the last third of each has no tag."""
    walk = torch.randn(200, 1, 25, generator=torch.Generator().manual_seed(0))
    tags = (walk[:, 0, 1:] > walk[:, 0, :-1]).long()
    tags[:, 16:] = -100
    return make_data(walk[:, :, :-1].contiguous(), tags, ("falls", "rises"), "tags")


@pytest.fixture(scope="module")
def squares(make_data: Callable[..., DataModule]) -> DataModule:
    """Grey images with a bright and a dark square; the border is not labelled. uint8 [N, 12, 12, 1]."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(100, 150, (160, 12, 12, 1), dtype=torch.uint8, generator=generator)
    masks = torch.zeros(160, 12, 12, dtype=torch.int64)
    corners = torch.randint(1, 7, (160, 2, 2), generator=generator).tolist()
    for image, mask, squares in zip(images, masks, corners, strict=True):
        for kind, (top, left) in enumerate(squares, 1):
            image[top : top + 4, left : left + 4] = 250 if kind == 1 else 5
            mask[top : top + 4, left : left + 4] = kind
    masks[:, 0] = -100
    return make_data(images, masks, ("nothing", "bright", "dark"), "mask")


@pytest.mark.parametrize("task", [{}, {"loss": "focal"}, {"class_weights": "balanced", "label_smoothing": 0.1}])
def test_tags_are_learned(train: Callable[..., Any], rising: DataModule, task: dict[str, Any]) -> None:
    trained = train(rising, {"name": "tagging", **task}, "conv_steps", **{"trainer.epochs": 3})
    assert trained.before.score < 0.7
    assert list(trained.after.metrics) == ["loss", "accuracy", "f1"]
    assert trained.after.score > 0.75
    assert trained.after.confusion is not None
    assert int(trained.after.confusion.sum()) == 40 * 16  # what has no tag is not judged


def test_masks_are_learned(train: Callable[..., Any], squares: DataModule) -> None:
    trained = train(squares, {"name": "segmentation", "metrics": ["dice"]}, "conv_pixels", **{"trainer.epochs": 12})
    assert (trained.before.score < 0.4, trained.after.headline) == (True, "iou")
    assert trained.after.score > 0.9
    said = trained.result.model.module(normalize(squares.test.inputs, squares.spec)).argmax(1)
    known = squares.test.labels != -100
    expected = jaccard_score(squares.test.labels[known], said[known], average="macro")
    assert trained.after.score == pytest.approx(expected, rel=1e-5)
    assert trained.after.metrics["accuracy"] == float((said == squares.test.labels)[known].double().mean())


def test_each_sample_weighs_the_same_however_much_of_it_is_labelled(
    around: Callable[..., Any], rising: DataModule
) -> None:
    task = around(nn.Identity(), rising, {"name": "tagging"})
    logits, tags = torch.randn(2, 2, 24), torch.zeros(2, 24, dtype=torch.int64)
    tags[1, 3:] = -100
    each = [F.cross_entropy(logits[:1], tags[:1]), F.cross_entropy(logits[1:], tags[1:], ignore_index=-100)]
    loss = task.step(Batch(logits, tags, torch.arange(2)))["loss"]
    torch.testing.assert_close(loss, (each[0] + each[1]) / 2)


def test_a_class_that_cannot_be_is_named(around: Callable[..., Any], rising: DataModule) -> None:
    task = around(nn.Identity(), rising, {"name": "tagging"})
    tags = torch.full((1, 24), 2)
    with pytest.raises(UsageError, match="labels run from 2 to 2; allowed: 0 to 1"):
        task.check(Batch(torch.zeros(1, 2, 24), tags, torch.arange(1)))
    task.check(Batch(torch.zeros(1, 2, 24), torch.full((1, 24), -100), torch.arange(1)))
