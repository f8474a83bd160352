"""Distillation: a second loss for any task, towards a frozen teacher's outputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaledl.data import Batch
from scaledl.runtime.outputs import DECIDED, OutputKind

SoftLoss = Callable[[dict[str, Tensor], Tensor, float, Batch], Tensor]


def soft_targets_loss(student: Tensor, teacher: Tensor, temperature: float, counted: Tensor | None = None) -> Tensor:
    """KL divergence of softened outputs, scaled by T² (Hinton et al. 2015).

    Args:
        student, teacher: logits [B, K], or [B, K, ...] of each step or pixel, over which the mean is taken.
        counted: bool [B, ...], the steps that count; all, where it is left out.
    """
    log_p = F.log_softmax(student.float() / temperature, dim=1)
    log_q = F.log_softmax(teacher.float() / temperature, dim=1)
    values = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)
    mean = values.mean() if counted is None else (values * counted).sum() / counted.sum().clamp(min=1)
    return mean * temperature**2


def soft_labels_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """As `soft_targets_loss`, of labels any of which may be there: logits [B, K], each a distribution of its own."""
    p, q = student.float() / temperature, teacher.float() / temperature
    cross = F.binary_cross_entropy_with_logits(p, q.sigmoid())
    entropy = F.binary_cross_entropy_with_logits(q, q.sigmoid())
    return (cross - entropy) * temperature**2


def distance(kind: OutputKind, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """How far outputs of this kind are from a teacher's: a divergence of what is decided, mean squares of all else."""
    if kind in DECIDED:
        return soft_targets_loss(student, teacher, temperature)
    if kind == "classes":
        return soft_labels_loss(student, teacher, temperature)
    return F.mse_loss(student.float(), teacher.float())


class SoftTargets:
    """Turn a task's result into (1 - weight) * own loss + weight * loss towards the teacher.

    Not a module: the teacher stays outside the task, frozen, in eval mode, in no checkpoint and no optimizer.
    """

    def __init__(
        self, teacher: nn.Module, weight: float, temperature: float, loss_fn: SoftLoss, *, bf16: bool = False
    ) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        self._device: torch.device | None = None
        self.weight = weight
        self.temperature = temperature
        self.loss_fn = loss_fn
        self.bf16 = bf16

    def __call__(self, batch: Batch, result: dict[str, Tensor]) -> Tensor:
        """A scalar. The teacher sees what the model saw."""
        x = result.get("input", batch.x)
        if x.device != self._device:  # Lightning moves the task, and the teacher is not part of it
            self._device = x.device
            self.teacher.to(self._device)
        with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            target = self.teacher(x)
        soft = self.loss_fn(result, target, self.temperature, batch)
        return (1 - self.weight) * result["loss"] + self.weight * soft
