from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scaledl.config.schema import TaskConfig
from scaledl.data import Batch, DataSpec
from scaledl.runtime.outputs import OutputKind
from scaledl.tasks.classification import ClassificationTask
from scaledl.tasks.distillation import SoftTargets, distance, soft_labels_loss, soft_targets_loss

pytestmark = pytest.mark.unit

SPEC = DataSpec("made-up", (1, 2, 3), ("a", "b", "c", "d"), (0.0,), (1.0,), "0")


def random_batch(n=8):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 1, 2, 3, generator=generator)
    return Batch(x, torch.randint(0, 4, (n,), generator=generator), torch.arange(n))


def linear(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 4))


def test_soft_targets_loss_is_the_kl_divergence_of_the_paper():
    student, teacher = torch.randn(5, 4), torch.randn(5, 4)
    p, q = F.softmax(student / 3, 1), F.softmax(teacher / 3, 1)
    expected = (q * (q / p).log()).sum(1).mean() * 9
    torch.testing.assert_close(soft_targets_loss(student, teacher, 3.0), expected)
    assert soft_targets_loss(teacher, teacher, 3.0).item() == pytest.approx(0, abs=1e-6)


def test_weight_mixes_own_and_soft_loss():
    batch, teacher = random_batch(), linear(1)
    task = ClassificationTask(linear(0), TaskConfig(), SPEC)
    result = task.step(batch)
    soft = soft_targets_loss(result["output"], teacher(batch.x), 2.0)
    mixed = SoftTargets(teacher, 0.25, 2.0, task.soft_loss)(batch, result)
    torch.testing.assert_close(mixed, 0.75 * result["loss"] + 0.25 * soft)


def test_the_teacher_is_frozen_and_outside_the_task():
    batch, teacher = random_batch(), linear(1)
    task = ClassificationTask(linear(0), TaskConfig(), SPEC)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    task.auxiliary = SoftTargets(teacher.train(), 0.5, 2.0, task.soft_loss)
    task.auxiliary(batch, task.step(batch)).backward()
    assert not teacher.training
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert task.state_dict().keys() == before.keys()
    assert all(p.grad is not None for p in task.model.parameters())


@pytest.mark.parametrize("kind", get_args(OutputKind))
def test_a_student_that_agrees_is_at_no_distance(kind):
    shape = (5, 4) if kind in ("class", "classes", "numbers", "embedding", "mixed") else (5, 4, 6)
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    assert distance(kind, teacher, teacher, 3.0).item() == pytest.approx(0, abs=1e-5)
    assert distance(kind, student, teacher, 3.0).item() > 0.05


def test_steps_are_distributions_of_their_own():
    student, teacher = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    each = [soft_targets_loss(student[:, :, t], teacher[:, :, t], 2.0) for t in range(3)]
    torch.testing.assert_close(distance("tags", student, teacher, 2.0), torch.stack(each).mean())
    counted = torch.tensor([[True, False, False], [True, False, False]])
    torch.testing.assert_close(soft_targets_loss(student, teacher, 2.0, counted), each[0])


def test_labels_are_distributions_of_their_own():
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    each = [
        soft_targets_loss(*(torch.stack([logits[:, k], torch.zeros(5)], 1) for logits in (student, teacher)), 2.0)
        for k in range(3)
    ]
    torch.testing.assert_close(soft_labels_loss(student, teacher, 2.0), torch.stack(each).mean())


def test_numbers_are_at_a_mean_squared_distance():
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    torch.testing.assert_close(distance("numbers", student, teacher, 9.0), (student - teacher).square().mean())


def test_the_teacher_sees_what_the_model_saw():
    batch, seen = random_batch(), []

    class Teacher(nn.Module):
        def forward(self, x):
            seen.append(x)
            return torch.zeros(len(x), 4)

    soft = SoftTargets(Teacher(), 0.5, 2.0, lambda result, teacher, temperature, batch: result["loss"])
    hidden = torch.zeros_like(batch.x)
    soft(batch, {"loss": torch.ones(()), "output": torch.zeros(8, 4), "input": hidden})
    assert seen[0] is hidden
