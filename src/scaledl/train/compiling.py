"""torch.compile, and whether it pays in a run: tried where the run is long enough that it may."""

from __future__ import annotations

import logging
import time

import torch
from torch import nn

from scaledl.console import get_console
from scaledl.data import Batch
from scaledl.tasks.base import Task, is_out_of_memory
from scaledl.train.precision import time_step

MANY = 100  # steps of a training; fewer never pay
_LONG = 600.0  # seconds of training; compiling takes some 10 to 60, and often wins less than a tenth of the time
_WORTHWHILE = 0.97
_AGAIN = 2.0  # evaluation, and its last batch, which is smaller, are compiled as well
_ROUNDS = 15


def compile_(module: nn.Module) -> None:
    """Compiled at its first call, without torch's note that a machine has no CUDA.

    What was compiled before is forgotten: a process has room for eight modules, and the ninth would run uncompiled.
    """
    torch.compiler.reset()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    module.compile()


def uncompile_(module: nn.Module) -> None:
    """Plain again: what is compiled cannot be traced, and what is measured of it is not what eager takes."""
    module._compiled_call_impl = None


def worth_compiling(task: Task, batch: Batch, steps: int, *, bf16: bool) -> bool:
    """Whether `steps` forward and backward passes get so much quicker that compiling is paid back.

    A training of less than ten minutes is not tried. Where compiling fails (no C++ compiler, operations that it does
    not know) the answer is no, with a line that says why.

    Args:
        task: around a copy of the model, which is left compiled and with gradients.
        batch: on the device that trains, laid out as for training.
    """
    task.train()
    eager = min(time_step(task, batch, bf16=bf16) for _ in range(3))
    if steps * eager < _LONG:
        return False
    say = get_console().info
    start = time.perf_counter()
    try:
        compile_(task.model)
        time_step(task, batch, bf16=bf16)
        cost = time.perf_counter() - start
        ratio = _compiled_by_eager(task, batch, bf16=bf16)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        say(f"compile auto: no, compiling fails here: {str(error).strip().splitlines()[0][:200]}")
        return False
    won = steps * eager * (1 - ratio)
    pays = ratio < _WORTHWHILE and won > _AGAIN * cost
    answer = "yes" if pays else "no"
    say(f"compile auto: {answer}, a compiled step takes {ratio:.2f} of the time, compiling {cost:.0f} s")
    return pays


def _compiled_by_eager(task: Task, batch: Batch, *, bf16: bool) -> float:
    """By the shortest of steps that took turns, which a busy neighbour moves least."""
    compiled, eager = [], []
    for _ in range(_ROUNDS):
        compiled.append(time_step(task, batch, bf16=bf16))
        with torch.compiler.set_stance("force_eager"):
            eager.append(time_step(task, batch, bf16=bf16))
    return min(compiled) / min(eager)
