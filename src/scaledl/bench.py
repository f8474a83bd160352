"""Latency, measured fairly: interleaved rounds, pinned threads, minimum and quantiles, a flag when noise spoils it."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from scaledl.errors import UsageError
from scaledl.models.quantized import convert, is_quantized
from scaledl.models.structure import WEIGHTS_FILE, load_model
from scaledl.run import find_run
from scaledl.runtime import load

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


@dataclass(frozen=True)
class BenchTarget:
    """Something to be measured. `fn` takes normalised float32 [B, *in_shape]; `size_bytes` is that of its files."""

    name: str
    fn: CallFn
    in_shape: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True)
class BenchRow:
    """One target at one batch size; `faster` is against the first target, None for that target itself."""

    latency: Latency
    size_bytes: int
    faster: Ratio | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        faster = asdict(self.faster) if self.faster else None
        return {**asdict(self.latency), "size_bytes": self.size_bytes, "faster": faster}


def measure(
    targets: Mapping[str, CallFn],
    in_shape: Sequence[int],
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
        targets: name -> callable, float32 [B, *in_shape] -> anything.
        threads: CPU threads while measuring; set back afterwards.
        rounds: at least 3.
        seconds: duration of one round of one target.
    """
    if rounds < 3 or not targets:
        raise UsageError(f"rounds: got {rounds}; at least 3 are needed, and at least one target (got {len(targets)})")
    found: list[Latency] = []
    with _pinned(threads), torch.inference_mode():
        for batch_size in batch_sizes:
            x = torch.randn(batch_size, *in_shape, generator=torch.Generator().manual_seed(0))
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


def bench_targets(
    refs: Sequence[str | Path],
    root: Path,
    *,
    batch_sizes: Sequence[int] = (1, 64),
    threads: int = 1,
    rounds: int = 9,
    seconds: float = 0.05,
    trust: bool = False,
) -> list[BenchRow]:
    """Measure exported files and the models of runs (eager, float32) side by side; ratios are against the first.

    Raises:
        UsageError: a name that is neither a file nor a run, or inputs of different shapes.
    """
    targets = [build_target(ref, root, batch_sizes, trust=trust) for ref in refs]
    return bench_rows(_distinct(targets), batch_sizes, threads=threads, rounds=rounds, seconds=seconds)


def bench_rows(targets: Sequence[BenchTarget], batch_sizes: Sequence[int], **measuring: Any) -> list[BenchRow]:
    """Rows for every batch size and target, in that order; `measuring` goes to `measure`."""
    shapes = {target.in_shape for target in targets}
    if len(shapes) != 1:
        listed = ", ".join(f"{target.name} {list(target.in_shape)}" for target in targets)
        raise UsageError(f"targets with inputs of different shapes cannot be compared: {listed or 'none given'}")
    found = measure({target.name: target.fn for target in targets}, shapes.pop(), batch_sizes, **measuring)
    sizes = {target.name: target.size_bytes for target in targets}
    first = {row.batch_size: row for row in found if row.name == targets[0].name}
    return [
        BenchRow(row, sizes[row.name], None if row.name == targets[0].name else ratio(first[row.batch_size], row))
        for row in found
    ]


def build_target(ref: str | Path, root: Path, batch_sizes: Sequence[int], *, trust: bool = False) -> BenchTarget:
    """An exported file, or the model of a run: float32 eager, or its int8 module where the run is quantized."""
    path = Path(ref)
    if path.is_file():
        predictor = load(path, trust=trust, batch_sizes=batch_sizes)
        return BenchTarget(str(ref), predictor.forward, predictor.spec.shape, path.stat().st_size)
    run = find_run(str(ref), root, kinds=("train", "compress", "stage"))
    model = load_model(run.model_dir, trust=trust)
    quantized = is_quantized(model.structure)
    module = convert(model) if quantized else model.module
    name = f"{run.name}/{run.id} (eager {'int8' if quantized else 'fp32'})"
    return BenchTarget(name, module, model.structure.in_shape, (run.model_dir / WEIGHTS_FILE).stat().st_size)


def to_table(rows: Sequence[BenchRow]) -> tuple[list[str], list[list[str]], str]:
    """Columns, rows and title for a table on a terminal."""
    columns = ["target", "batch", "min ms", "p50 ms", "p95 ms", "× first [95 %]", "size kB", "noise"]
    return columns, [_cells(row) for row in rows], f"latency ({machine()})"


def machine() -> str:
    """Where a figure comes from, in one line: processor type, cores, load, torch."""
    load_average = os.getloadavg()[0]
    return f"{platform.machine()}, {os.cpu_count()} cores, load {load_average:.1f}, torch {torch.__version__}"


def count_params(module: nn.Module) -> int:
    """Elements of all parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(module: nn.Module, in_shape: Sequence[int]) -> int:
    """Multiply-accumulates of all convolutions and linear layers for one sample of shape `in_shape`.

    Works on float, fake-quantized and converted int8 modules. The module is left as it was.
    """
    total = 0

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += _macs(layer, inputs[0], output)

    hooks = [layer.register_forward_hook(add) for layer in module.modules() if _is_counted(layer)]
    modes = {layer: layer.training for layer in module.modules()}
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    try:
        module.eval()
        with torch.inference_mode():
            module(torch.zeros(1, *in_shape, device=device))
    finally:
        for hook in hooks:
            hook.remove()
        for layer, training in modes.items():
            layer.training = training
    return total


def _is_counted(layer: nn.Module) -> bool:
    """Quantized layers share the attributes of float ones, not their classes."""
    return (hasattr(layer, "kernel_size") and hasattr(layer, "out_channels")) or hasattr(layer, "out_features")


def _macs(layer: Any, x: Tensor, output: Tensor) -> int:
    if hasattr(layer, "out_features"):
        return output.numel() * int(layer.in_features)
    kernel = 1
    for size in layer.kernel_size:
        kernel *= int(size)
    if getattr(layer, "transposed", False):
        return x.numel() * kernel * int(layer.out_channels) // int(layer.groups)
    return output.numel() * kernel * int(layer.in_channels) // int(layer.groups)


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
    times = []
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


def _distinct(targets: list[BenchTarget]) -> list[BenchTarget]:
    """Number the names that come more than once."""
    names = [target.name for target in targets]
    return [
        target
        if names.count(target.name) == 1
        else BenchTarget(
            f"{target.name} #{names[:i].count(target.name) + 1}", target.fn, target.in_shape, target.size_bytes
        )
        for i, target in enumerate(targets)
    ]


def _cells(row: BenchRow) -> list[str]:
    latency = row.latency
    times = [f"{value:.3f}" for value in (latency.minimum_ms, latency.p50_ms, latency.p95_ms)]
    faster = "1" if row.faster is None else f"{row.faster.value:.2f} [{row.faster.low:.2f}–{row.faster.high:.2f}]"
    noise = "noisy" if latency.noisy else ""
    return [latency.name, str(latency.batch_size), *times, faster, f"{row.size_bytes / 1e3:.1f}", noise]
