import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scaledl.config.schema import TaskConfig
from scaledl.data import Batch, DataSpec
from scaledl.tasks.classification import ClassificationTask

pytestmark = pytest.mark.unit

SPEC = DataSpec("made-up", (1, 2, 3), ("a", "b", "c", "d"), (0.0,), (1.0,), "0")


def make_task(smoothing=0.2):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 4))
    return ClassificationTask(model, TaskConfig(label_smoothing=smoothing), SPEC)


def evaluated(task, *batches):
    task.on_validation_epoch_start()
    for number, batch in enumerate(batches):
        task.validation_step(batch, number)
    return {name: float(value) for name, value in task.evaluated().items()}


def make_batch(n=10):
    return Batch(torch.randn(n, 1, 2, 3), torch.randint(0, 4, (n,)), torch.arange(n))


def test_labels_are_smoothed_in_training_only():
    task, batch = make_task(), make_batch()
    logits = task(batch.x)
    torch.testing.assert_close(task.train().step(batch)["loss"], F.cross_entropy(logits, batch.y, label_smoothing=0.2))
    torch.testing.assert_close(task.eval().step(batch)["loss"], F.cross_entropy(logits, batch.y))


def test_a_class_that_the_model_masks_gets_no_share_of_the_smoothing():
    task, batch = make_task(), make_batch()
    batch = batch._replace(y=batch.y.clamp(max=2))
    with torch.no_grad():
        task.model[1].bias[3] = -1e4
    expected = F.cross_entropy(task(batch.x)[:, :3], batch.y, label_smoothing=0.2)
    torch.testing.assert_close(task.train().step(batch)["loss"], expected)


def test_figures_are_those_of_all_samples_however_they_are_cut():
    task, batch = make_task().eval(), make_batch()
    logits = task(batch.x)
    parts = [Batch(*(field[rows] for field in batch)) for rows in (slice(0, 7), slice(7, 10))]
    expected = {
        "loss": F.cross_entropy(logits, batch.y).item(),
        "accuracy": float((logits.argmax(1) == batch.y).double().mean()),
    }
    assert evaluated(task, batch) == pytest.approx(expected)
    assert evaluated(task, *parts) == pytest.approx(expected)


def test_a_row_that_only_keeps_the_ranks_in_step_counts_for_nothing():
    task, batch = make_task().eval(), make_batch()
    nothing = Batch(batch.x[:1] * torch.nan, batch.y[:1], batch.ids[:0])
    assert evaluated(task, batch, nothing) == evaluated(task, batch)


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
        torch.testing.assert_close(task.step(batch)["loss"], task.step(soft)["loss"])
        assert evaluated(task, batch) == pytest.approx(evaluated(task, soft))
