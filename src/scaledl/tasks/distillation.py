"""Distillation: a second loss for any task, towards a frozen teacher's outputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaledl.data import Batch


def soft_targets_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence of softened outputs, scaled by T² (Hinton et al. 2015). Both [B, K] logits -> scalar."""
    log_p = F.log_softmax(student.float() / temperature, dim=1)
    log_q = F.log_softmax(teacher.float() / temperature, dim=1)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * temperature**2


class SoftTargets:
    """Turn a task's result into (1 - weight) * own loss + weight * loss towards the teacher.

    Not a module: the teacher stays outside the task, frozen, in eval mode, in no checkpoint and no optimizer.
    """

    def __init__(self, teacher: nn.Module, weight: float, temperature: float, *, bf16: bool = False) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        self._device: torch.device | None = None
        self.weight = weight
        self.temperature = temperature
        self.bf16 = bf16

    def __call__(self, batch: Batch, result: dict[str, Tensor]) -> Tensor:
        if batch.x.device != self._device:  # Lightning moves the task, and the teacher is not part of it
            self._device = batch.x.device
            self.teacher.to(self._device)
        with torch.no_grad(), torch.autocast(batch.x.device.type, torch.bfloat16, enabled=self.bf16):
            target = self.teacher(batch.x)
        soft = soft_targets_loss(result["output"], target, self.temperature)
        return (1 - self.weight) * result["loss"] + self.weight * soft
