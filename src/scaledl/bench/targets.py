"""Exported files and runs side by side: what `scaledl bench A B` shows."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from scaledl.bench.latency import CallFn, Latency, Ratio, measure, ratio
from scaledl.errors import UsageError
from scaledl.models.quantized import convert, is_quantized
from scaledl.models.structure import WEIGHTS_FILE, load_model
from scaledl.run import find_run
from scaledl.runtime import load
from scaledl.runtime.signature import Inputs


@dataclass(frozen=True)
class BenchTarget:
    """Something to be measured. `fn` takes inputs as `inputs` says, normalised; `size_bytes` is that of its files."""

    name: str
    fn: CallFn
    inputs: Inputs
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
    kinds = {target.inputs for target in targets}
    if len(kinds) != 1:
        listed = ", ".join(f"{target.name} {target.inputs.kind} {list(target.inputs.shape)}" for target in targets)
        raise UsageError(f"targets with inputs of different shapes cannot be compared: {listed or 'none given'}")
    found = measure({target.name: target.fn for target in targets}, kinds.pop().example, batch_sizes, **measuring)
    sizes = {target.name: target.size_bytes for target in targets}
    first = {row.batch_size: row for row in found if row.name == targets[0].name}
    return [
        BenchRow(row, sizes[row.name], None if row.name == targets[0].name else ratio(first[row.batch_size], row))
        for row in found
    ]


def build_target(ref: str | Path, root: Path, batch_sizes: Sequence[int], *, trust: bool = False) -> BenchTarget:
    """An exported file, or the model of a run: float32 eager, or its int8 module where the run is quantized."""
    path = Path(ref)
    if path.is_file() or path.suffix == ".ts":
        predictor = load(path, trust=trust, batch_sizes=batch_sizes)
        return BenchTarget(str(ref), predictor.forward, predictor.spec.inputs, path.stat().st_size)
    run = find_run(str(ref), root, kinds=("train", "compress", "stage"))
    run.verify_files("model")
    model = load_model(run.model_dir, trust=trust)
    quantized = is_quantized(model.structure)
    module = convert(model) if quantized else model.module
    name = f"{run.name}/{run.id} (eager {'int8' if quantized else 'fp32'})"
    return BenchTarget(name, module, model.structure.inputs, (run.model_dir / WEIGHTS_FILE).stat().st_size)


def to_table(rows: Sequence[BenchRow]) -> tuple[list[str], list[list[str]], str]:
    """Columns, rows and title for a table on a terminal."""
    columns = ["target", "batch", "min ms", "p50 ms", "p95 ms", "times faster [95 %]", "size kB", "noise"]
    return columns, [_cells(row) for row in rows], f"latency ({machine()})"


def machine() -> str:
    """Where a figure comes from, in one line: processor type, cores, load, torch."""
    load_average = os.getloadavg()[0]
    return f"{platform.machine()}, {os.cpu_count()} cores, load {load_average:.1f}, torch {torch.__version__}"


def _distinct(targets: list[BenchTarget]) -> list[BenchTarget]:
    """Number the names that come more than once."""
    names = [target.name for target in targets]
    return [
        target
        if names.count(target.name) == 1
        else BenchTarget(
            f"{target.name} #{names[:i].count(target.name) + 1}", target.fn, target.inputs, target.size_bytes
        )
        for i, target in enumerate(targets)
    ]


def _cells(row: BenchRow) -> list[str]:
    latency = row.latency
    times = [f"{value:.3f}" for value in (latency.minimum_ms, latency.p50_ms, latency.p95_ms)]
    faster = "1" if row.faster is None else f"{row.faster.value:.2f} [{row.faster.low:.2f}–{row.faster.high:.2f}]"
    noise = "noisy" if latency.noisy else ""
    return [latency.name, str(latency.batch_size), *times, faster, f"{row.size_bytes / 1e3:.1f}", noise]
