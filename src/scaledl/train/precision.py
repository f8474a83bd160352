"""What `auto` means on this machine: decided by a short measurement, once per run."""

from __future__ import annotations

import time

import torch

from scaledl.console import get_console
from scaledl.data import Batch
from scaledl.models.structure import Model
from scaledl.tasks.base import Task, is_out_of_memory

_WORTHWHILE = 1.1


def resolve_precision(task: Task, batch: Batch) -> str:
    """Return "bf16" when forward and backward are at least 10 % faster than in fp32 here, else "fp32"; and say so.

    Args:
        task: around a copy of the model, which is left with gradients.
        batch: on the device that trains, laid out as for training.
    """
    precision, why = _faster(task.train(), batch)
    get_console().info(f"precision auto: {precision}{why}")
    return precision


def _faster(task: Task, batch: Batch) -> tuple[str, str]:
    """And why; some code of other libraries does not run under autocast."""
    if batch.x.device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "fp32", ", this GPU has no bf16"
    seconds = [min(time_step(task, batch, bf16=False) for _ in range(4))]
    try:
        seconds.append(min(time_step(task, batch, bf16=True) for _ in range(4)))
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return "fp32", f", as the model fails in bf16 ({_line(error)})"
    return "bf16" if seconds[0] > _WORTHWHILE * seconds[1] else "fp32", " is faster here"


@torch.no_grad()
def bf16_problem(model: Model) -> str:
    """Why it does not run under autocast, where it lies, in evaluation; empty where it does."""
    x = model.structure.inputs.example(2).to(next(model.module.parameters()).device)
    was_training = model.module.training
    model.module.eval()
    try:
        with torch.autocast(x.device.type, torch.bfloat16):
            model.module(x)
    except RuntimeError as error:
        return _line(error)
    finally:
        model.module.train(was_training)
    return ""


def _line(error: RuntimeError) -> str:
    return " ".join(str(error).split())[:200]


def time_step(task: Task, batch: Batch, *, bf16: bool) -> float:
    """Seconds of one forward and backward pass."""
    start = time.perf_counter()
    with torch.autocast(batch.x.device.type, torch.bfloat16, enabled=bf16):
        loss = task.step(batch)["loss"]
    loss.backward()
    if batch.x.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
