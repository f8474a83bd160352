"""The micro-batch that a device takes and makes good use of: doubled until memory or throughput ends it."""

from __future__ import annotations

import gc
import math
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from scaledl.config import Config, replace
from scaledl.data import DataModule
from scaledl.distributed.ranks import Ranks
from scaledl.models.structure import Model
from scaledl.run.machine import available_memory
from scaledl.tasks.base import is_out_of_memory
from scaledl.train.rehearsal import Rehearsal
from scaledl.train.settings import fresh_settings, uses_gpu

SMALLEST = 2  # BatchNorm needs more than one
WORTHWHILE = 1.05  # times the throughput of the best before
GOOD = 0.95  # of the best throughput is good enough for a smaller batch
STEPS = 3
SECONDS = 0.5  # at least, for each size


@dataclass(frozen=True)
class Measured:
    """A micro-batch and the seconds of a step with it; None: it did not fit into memory."""

    batch_size: int
    seconds: float | None

    @property
    def throughput(self) -> float:
        """Samples a second; 0 where it did not fit."""
        return self.batch_size / self.seconds if self.seconds else 0.0


def find_batch_size(config: Config, data: DataModule, model_fn: Callable[[], Model]) -> list[Measured]:
    """Steps with growing micro-batches, on a fresh model for each; sizes end with the training split."""
    lr, start, last = config.optimizer.lr, _peak(), 0
    config = replace(config, {"trainer.precision": fresh_settings(config, data, model_fn(), Ranks()).precision})

    def seconds_of(batch_size: int) -> float | None:
        nonlocal last
        if not uses_gpu(config) and 2 * last > (available_memory() or math.inf):
            return None  # the system would end the process instead of telling it
        try:
            return _median_step(Rehearsal(config, data, model_fn()), batch_size, lr)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None
        finally:
            last = _peak() - start
            _give_back()

    return list(growing(seconds_of, len(data.train)))


def _peak() -> int:
    """Bytes that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _give_back() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def growing(seconds_of: Callable[[int], float | None], limit: int) -> Iterator[Measured]:
    """Doubles the size until it does not fit, is the whole split, or twice in a row brought no more throughput.

    >>> [m.batch_size for m in growing(lambda size: 1.0, 100)]  # a step takes as long with more
    [2, 4, 8, 16, 32, 64]
    >>> [m.batch_size for m in growing(lambda size: 0.1 * size, 100)]  # ten samples a second, whatever the size
    [2, 4, 8]
    >>> [m.batch_size for m in growing(lambda size: None if size > 8 else 1.0, 100)]
    [2, 4, 8, 16]
    """
    best, in_vain, size = 0.0, 0, min(SMALLEST, limit)
    while size <= limit and in_vain < 2:
        measured = Measured(size, seconds_of(size))
        yield measured
        if measured.seconds is None:
            return
        in_vain = 0 if measured.throughput > WORTHWHILE * best else in_vain + 1
        best, size = max(best, measured.throughput), 2 * size


def choose(measured: list[Measured]) -> int | None:
    """The smallest micro-batch that is nearly as fast as the best; None where none fitted.

    >>> choose([Measured(2, 1.0), Measured(4, 1.0), Measured(8, 1.95), Measured(16, None)])
    4
    """
    best = max((one.throughput for one in measured), default=0.0)
    return next((one.batch_size for one in measured if best and one.throughput >= GOOD * best), None)


def _median_step(rehearsal: Rehearsal, batch_size: int, lr: float) -> float:
    """Seconds, the making of its batch included, after a first step that also sets things up."""
    batches = (batch for batch in rehearsal.batches(batch_size) if len(batch.ids) == batch_size)
    taken: list[float] = []
    rehearsal.step([next(batches)], lr)
    while len(taken) < STEPS or sum(taken) < SECONDS:
        started = time.perf_counter()
        rehearsal.step([next(batches)], lr)  # whose loss is asked for, so a GPU is done with it
        taken.append(time.perf_counter() - started)
    return sorted(taken)[len(taken) // 2]
