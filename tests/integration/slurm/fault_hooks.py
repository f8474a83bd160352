"""Copied as `sitecustomize.py` beside a project, it makes the ranks of its jobs slow, wrong, or wait for a signal.

In the first attempt of a job only:

    FAULT_POINT   where each rank that comes there waits until a stop signal has reached it: `NAME`, or `HOOK@STEP`;
                  `save`: every save, until there is $FAULT_FOLDER/go
    FAULT_SLOW    `RANK:SECONDS` before each of its steps; `*` for all ranks
    FAULT_WRONG   `shape` or `operation`: what rank 1 does wrong in a collective of the fourth step

What happens is told to $FAULT_FOLDER/NAME, a line of JSON each: `conftest.py: Event`.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RANK = int(os.environ.get("SLURM_PROCID", 0))
RESTART = int(os.environ.get("SLURM_RESTART_COUNT", 0))
POINT, SLOW, WRONG = ("" if RESTART else os.environ.get(f"FAULT_{name}", "") for name in ("POINT", "SLOW", "WRONG"))
PATIENCE_SECONDS = 60
HOOKS = (
    *("on_fit_start", "on_train_start", "on_train_batch_start", "on_train_batch_end", "on_train_epoch_end"),
    *("on_validation_start", "on_validation_batch_end", "on_validation_end", "on_train_end"),
)
signals = 0
wrong_now = False


def tell(name: str, what: Any = None) -> None:
    event = {"rank": RANK, "restart": RESTART, "pid": os.getpid(), "time": time.time(), "what": what}
    with Path(os.environ["FAULT_FOLDER"], name).open("a") as file:
        file.write(json.dumps(event) + "\n")


def at(point: str, free: Callable[[], bool] = lambda: signals > 0) -> None:
    if point != POINT or free():
        return
    tell("reached", point)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not free() and time.monotonic() < deadline:
        time.sleep(0.005)


def before(owner: Any, name: str, point: str) -> None:
    plain = getattr(owner, name)

    def patched(*arguments: Any, **more: Any) -> Any:
        at(point)
        return plain(*arguments, **more)

    setattr(owner, name, patched)


def count_signals(preemption: Any) -> None:
    plain = preemption.StopFlag.handle

    def handle(self: Any, signum: int, frame: Any) -> None:
        global signals
        signals += 1
        plain(self, signum, frame)
        tell("signals", signum)

    preemption.StopFlag.handle = handle


def hook_into_training(callbacks: Any) -> None:
    for hook in HOOKS:
        in_training(callbacks.SignsOfLife, hook)


def in_training(owner: Any, hook: str) -> None:
    plain = getattr(owner, hook)

    def patched(self: Any, trainer: Any, *rest: Any) -> Any:
        if hook == "on_train_batch_start":
            begin_step(trainer, rest[1])
        at(f"{hook}@{trainer.global_step}")
        return plain(self, trainer, *rest)

    setattr(owner, hook, patched)


def begin_step(trainer: Any, batch: Any) -> None:
    global wrong_now
    tell("batches", {"epoch": trainer.current_epoch, "step": trainer.global_step, "ids": batch.ids.tolist()})
    rank, _, seconds = SLOW.partition(":")
    if rank in ("*", str(RANK)):
        time.sleep(float(seconds))
    wrong_now = bool(WRONG) and RANK == 1 and trainer.global_step == 3


def hook_into_saves(writer: Any) -> None:
    plain = writer.CheckpointWriter._write

    def write(self: Any, *arguments: Any) -> None:
        step = arguments[-1].step
        tell("saves", step)
        at("save", Path(os.environ["FAULT_FOLDER"], "go").exists)
        plain(self, *arguments)
        tell("saved", step)

    writer.CheckpointWriter._write = write


def hook_into_attempts(lease: Any) -> None:
    plain_take, plain_check = lease.Lease.take, lease.Lease.check

    def take(self: Any, attempts: int) -> Any:
        taken = plain_take(self, attempts)
        tell("attempts", taken.attempt)
        return taken

    def check(self: Any) -> None:
        try:
            plain_check(self)
        except Exception as error:
            tell("fenced", str(error))
            raise

    lease.Lease.take, lease.Lease.check = take, check


def hook_into_collectives(ranks: Any) -> None:
    plain = ranks.Ranks._reduce

    def reduce(self: Any, tensor: Any, operation: str) -> Any:
        global wrong_now
        if wrong_now:
            wrong_now = False
            tell("reached", WRONG)
            if WRONG == "operation":
                self.broadcast_([tensor])
            else:
                tensor = tensor.repeat(1000)
        return plain(self, tensor, operation)

    ranks.Ranks._reduce = reduce


PATCHES: dict[str, Callable[[Any], None]] = {
    "scaledl.distributed.preemption": count_signals,
    "scaledl.distributed.rendezvous": lambda module: before(module, "open_store", "rendezvous"),
    "scaledl.distributed.preflight": lambda module: before(module, "agree", "preflight"),
    "scaledl.distributed.ranks": hook_into_collectives,
    "scaledl.data": lambda module: before(module, "build_data", "data"),
    "scaledl.api.running": lambda module: before(module, "keep_result", "result"),
    "scaledl.train.callbacks": hook_into_training,
    "scaledl.checkpoint.writer": hook_into_saves,
    "scaledl.run.lease": hook_into_attempts,
}


class Patching(importlib.abc.MetaPathFinder):
    """Patches modules when they have been imported, whenever that is."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        patch = PATCHES.pop(fullname, None)
        if patch is None:
            return None
        spec = importlib.util.find_spec(fullname)
        assert spec is not None
        loader: Any = spec.loader
        plain = loader.exec_module

        def exec_module(module: Any) -> None:
            plain(module)
            patch(module)

        loader.exec_module = exec_module
        return spec


if "SLURM_STEP_ID" in os.environ and "FAULT_FOLDER" in os.environ:
    sys.meta_path.insert(0, Patching())
    at("python")  # where a signal still kills
