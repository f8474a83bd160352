import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scaledl.config.schema import TaskConfig
from scaledl.data import Batch
from scaledl.tasks.classification import ClassificationTask

pytestmark = pytest.mark.unit


def make_task(smoothing=0.2):
    torch.manual_seed(0)
    return ClassificationTask(nn.Sequential(nn.Flatten(), nn.Linear(6, 4)), TaskConfig(label_smoothing=smoothing))


def make_batch(n=10):
    return Batch(torch.randn(n, 1, 2, 3), torch.randint(0, 4, (n,)), torch.arange(n))


def test_labels_are_smoothed_in_training_only():
    task, batch = make_task(), make_batch()
    logits = task(batch.x)
    torch.testing.assert_close(task.train().step(batch)["loss"], F.cross_entropy(logits, batch.y, label_smoothing=0.2))
    torch.testing.assert_close(task.eval().step(batch)["loss"], F.cross_entropy(logits, batch.y))


def test_metrics_are_sums_over_samples():
    task, batch = make_task().eval(), make_batch()
    result = task.step(batch)
    sums = task.metrics(result, batch)
    assert int(sums["accuracy"]) == sum(result["output"].argmax(1) == batch.y)
    torch.testing.assert_close(sums["loss"], F.cross_entropy(result["output"], batch.y, reduction="sum").detach())
