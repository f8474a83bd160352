"""Latency, measured fairly: interleaved rounds, pinned threads, minimum and quantiles, a flag when noise spoils it."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from scaledl.errors import UsageError

CallFn = Callable[[Tensor], Tensor]

# Above these a figure is flagged: calls that differ so much are the machine's doing, not the target's.
NOISY_P50_TO_MINIMUM = 1.25
NOISY_P95_TO_P50 = 1.5
BOOTSTRAP_SAMPLES = 2000


@dataclass(frozen=True)
class Latency:
    """Milliseconds a call of one target at one batch size. `round_ms`: the median of each round, in order."""

    name: str
    batch_size: int
    minimum_ms: float
    p50_ms: float
    p95_ms: float
    noisy: bool
    rounds: int
    round_ms: tuple[float, ...] = ()


@dataclass(frozen=True)
class Ratio:
    """How many times quicker; `low` and `high` bound it with 95 % confidence."""

    value: float
    low: float
    high: float


def measure(
    targets: Mapping[str, CallFn],
    example_fn: Callable[[int], Tensor],
    batch_sizes: Sequence[int],
    *,
    threads: int = 1,
    rounds: int = 9,
    seconds: float = 0.05,
) -> list[Latency]:
    """Latency of every target at every batch size, in rounds A B A B …

    Each call is timed by itself. The first calls of a target at a batch size are not counted, and decide how many calls
    make a round of about `seconds`.

    Args:
        targets: name -> callable, inputs [B, ...] -> anything.
        example_fn: batch size -> inputs.
        threads: CPU threads while measuring; set back afterwards.
        rounds: at least 3.
        seconds: duration of one round of one target.
    """
    if rounds < 3 or not targets:
        raise UsageError(f"rounds: got {rounds}; at least 3 are needed, and at least one target (got {len(targets)})")
    found: list[Latency] = []
    with _pinned(threads), torch.inference_mode():
        for batch_size in batch_sizes:
            x = example_fn(batch_size)
            calls = {name: _warm_up(fn, x, seconds) for name, fn in targets.items()}
            times: dict[str, list[list[float]]] = {name: [] for name in targets}
            for _ in range(rounds):
                for name, fn in targets.items():
                    times[name].append(_timed(fn, x, calls[name]))
            found += [summarize(name, batch_size, values) for name, values in times.items()]
    return found


def summarize(name: str, batch_size: int, times: Sequence[Sequence[float]]) -> Latency:
    """One Latency from the milliseconds of each call of each round."""
    every = sorted(value for values in times for value in values)
    minimum, p50 = every[0], statistics.median(every)
    p95 = every[min(len(every) - 1, int(0.95 * len(every)))]
    medians = tuple(statistics.median(values) for values in times)
    noisy = p50 > NOISY_P50_TO_MINIMUM * minimum or p95 > NOISY_P95_TO_P50 * p50
    return Latency(name, batch_size, minimum, p50, p95, noisy, len(medians), medians)


def ratio(slow: Latency, quick: Latency, *, seed: int = 0) -> Ratio:
    """How many times quicker `quick` is than `slow`: the median over rounds that were measured side by side.

    The bounds are a percentile bootstrap over rounds (Efron 1979), seeded.
    """
    assert len(slow.round_ms) == len(quick.round_ms) > 0, "only latencies of one measurement can be paired"
    pairs = [a / b for a, b in zip(slow.round_ms, quick.round_ms, strict=True)]
    random = Random(seed)  # noqa: S311
    medians = sorted(statistics.median(random.choices(pairs, k=len(pairs))) for _ in range(BOOTSTRAP_SAMPLES))
    low, high = medians[int(0.025 * BOOTSTRAP_SAMPLES)], medians[int(0.975 * BOOTSTRAP_SAMPLES)]
    return Ratio(statistics.median(pairs), low, high)


@contextmanager
def _pinned(threads: int) -> Iterator[None]:
    """A fixed number of threads and no garbage collection inside the block."""
    before, collecting = torch.get_num_threads(), gc.isenabled()
    torch.set_num_threads(threads)
    gc.disable()
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if collecting:
            gc.enable()


def _warm_up(fn: CallFn, x: Tensor, seconds: float) -> int:
    """Run `fn` for about half a round; return how many calls make a whole one."""
    for _ in range(3):  # TorchScript specialises its graph in the first runs
        fn(x)
    times: list[float] = []
    end = time.perf_counter() + seconds / 2
    while not times or time.perf_counter() < end:
        times += _timed(fn, x, 1)
    return max(1, round(seconds * 1e3 / statistics.median(times)))


def _timed(fn: CallFn, x: Tensor, calls: int) -> list[float]:
    times = []
    for _ in range(calls):
        start = time.perf_counter_ns()
        fn(x)
        times.append((time.perf_counter_ns() - start) / 1e6)
    return times
