"""Batches prepared by worker processes, in order."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from scaledl.data.arrays import Batch
from scaledl.errors import ScaledlError, UsageError

BatchFn = Callable[[Tensor, int], Batch]
# What a scheduler sends to every process of a step: only the rank itself stops for it, and then its workers.
IGNORED = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


class _Slices(Dataset[Batch | ScaledlError]):
    def __init__(self, batch_fn: BatchFn, slices: Sequence[Tensor], epoch: int) -> None:
        self._batch_fn, self._slices, self._epoch = batch_fn, slices, epoch

    def __len__(self) -> int:
        return len(self._slices)

    def __getitem__(self, index: int) -> Batch | ScaledlError:
        """An error that has its words for the user is handed over: of one that is raised, torch makes a traceback."""
        try:
            return self._batch_fn(self._slices[index], self._epoch)
        except ScaledlError as error:
            return (UsageError if isinstance(error, UsageError) else ScaledlError)(str(error))  # others may not pickle


def prepared(batch_fn: BatchFn, slices: Sequence[Tensor], epoch: int, num_workers: int) -> Iterator[Batch]:
    """`batch_fn(slice, epoch)` for every slice, in their order.

    Raises ScaledlError naming the process when a worker dies, and the ScaledlError that `batch_fn` raised in one.
    """
    loader = DataLoader(
        _Slices(batch_fn, slices, epoch),
        batch_size=None,
        num_workers=min(num_workers, len(slices)),
        worker_init_fn=_begin_worker,
        multiprocessing_context="fork",
        generator=torch.Generator(),  # else it draws from the global one
    )
    batches = _iterator(loader)
    try:
        for batch in batches:
            if isinstance(batch, ScaledlError):
                raise batch
            yield Batch(*batch)
    except (RuntimeError, OSError, EOFError) as error:
        death = _death(batches._workers)
        if death is None:
            raise
        raise ScaledlError(f"data.num_workers: {death}; the last checkpoint remains") from error
    finally:
        batches._shutdown_workers()  # else an error that is kept keeps them, too


def _iterator(loader: DataLoader[Batch | ScaledlError]) -> Any:
    """Without torch's handler of SIGCHLD, which raises what a worker's death is wherever the training just is."""
    before = signal.getsignal(signal.SIGCHLD)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)  # until a new worker ignores them
    try:
        batches = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)
    return batches


def _death(workers: Sequence[BaseProcess]) -> str | None:
    """Which of them is gone, and how."""
    for worker in workers:
        worker.join(0.1)
        code = worker.exitcode or 0
        if code:
            how = f"was killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"left with code {code}"
            return f"DataLoader worker (pid {worker.pid}) {how}"
    return None


def _begin_worker(number: int) -> None:
    for signum in IGNORED:
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # whose threads do not survive a fork
