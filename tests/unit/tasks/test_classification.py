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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shares_of_classes_are_a_target_too(dtype):
    task, batch = make_task(), make_batch()
    shares = torch.rand(10, 4)
    soft = batch._replace(y=shares / shares.sum(1, keepdim=True))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = task.train().step(soft)["loss"]
        logits = task(batch.x).float()
    smoothed = soft.y * 0.8 + 0.2 / 4
    torch.testing.assert_close(loss.float(), -(smoothed * logits.log_softmax(1)).sum(1).mean(), rtol=1e-3, atol=1e-5)


def test_hard_labels_as_shares_give_the_same_loss_and_metrics():
    task, batch = make_task(), make_batch()
    soft = batch._replace(y=F.one_hot(batch.y, 4).float())
    for mode in (task.train, task.eval):
        mode()
        hard_result, soft_result = task.step(batch), task.step(soft)
        torch.testing.assert_close(hard_result["loss"], soft_result["loss"])
        hard_sums, soft_sums = task.metrics(hard_result, batch), task.metrics(soft_result, soft)
        assert hard_sums["accuracy"] == soft_sums["accuracy"]
        torch.testing.assert_close(hard_sums["loss"], soft_sums["loss"])
