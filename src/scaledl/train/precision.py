"""What `auto` means on this machine: decided by a short measurement, once per run."""

from __future__ import annotations

import time

import torch

from scaledl.data import Batch
from scaledl.tasks.base import Task

_WORTHWHILE = 1.1


def resolve_precision(task: Task, batch: Batch) -> str:
    """Return "bf16" when forward and backward are at least 10 % faster than in fp32 here, else "fp32".

    Args:
        task: around a copy of the model, which is left with gradients.
        batch: on the device that trains, laid out as for training.
    """
    if batch.x.device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "fp32"
    task.train()
    seconds = {bf16: min(time_step(task, batch, bf16=bf16) for _ in range(4)) for bf16 in (False, True)}
    return "bf16" if seconds[False] > _WORTHWHILE * seconds[True] else "fp32"


def time_step(task: Task, batch: Batch, *, bf16: bool) -> float:
    """Seconds of one forward and backward pass."""
    start = time.perf_counter()
    with torch.autocast(batch.x.device.type, torch.bfloat16, enabled=bf16):
        loss = task.step(batch)["loss"]
    loss.backward()
    if batch.x.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
