"""A plan as a table for people, as lines that say where its figures come from, and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from scaledl.config import Config
from scaledl.plan.estimate import Estimate, Plan

_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def to_table(plan: Plan) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: the parts add up to what a rank holds while it trains, the peak may be in another phase."""
    parts = list(plan.estimates[0].memory.parts)
    columns = ["layout", "batch/rank", "memory/rank", "peak in", *parts, "step", "epoch", "total"]
    return columns, [_cells(estimate, parts) for estimate in plan.estimates]


def _cells(estimate: Estimate, parts: list[str]) -> list[str]:
    memory, time = estimate.memory, estimate.time
    shown = [size(memory.parts[part]) for part in parts]
    moments = [duration(time.step), duration(time.epoch), duration(time.total)]
    return [str(estimate.layout), str(estimate.micro_batch), size(memory.peak), memory.peak_phase, *shown, *moments]


def origins(plan: Plan, config: Config) -> list[str]:
    """What was measured, what computed from it, and what assumed."""
    measured = plan.measured
    where = measured.device if measured.gpu else "CPU"
    threads = sorted({estimate.num_threads for estimate in plan.estimates})
    on_threads = "" if measured.gpu else f", {' or '.join(map(str, threads))} thread(s) a rank"
    lines = [
        f"measured on this machine ({where}, {measured.precision}{on_threads}): steps, validation, final evaluation, "
        "and the memory that they, the data and the process take, with each rank's share of the batch",
        "computed: model, gradients and optimizer from their sizes, and what ZeRO shards of them; other (activations, "
        "workspace, buffers) as the rest of what was measured; the time to exchange gradients as bytes / bandwidth, "
        "as if nothing overlapped",
    ]
    known = {(found.value, found.source) for estimate in plan.estimates if (found := estimate.bandwidth)}
    lines += [f"bandwidth {value / 1e9:.2f} GB/s, {source}" for value, source in sorted(known)]
    if config.data.num_workers:
        lines.append(f"not counted: what the {config.data.num_workers} data worker(s) of a rank take beside it")
    limit = " at most (early stopping)" if config.trainer.early_stopping_patience else ""
    return [*lines, f"{plan.estimates[0].time.steps:,} optimizer steps{limit}"]


def to_json(plan: Plan, config: Config) -> dict[str, Any]:
    """Bytes and seconds."""
    return {
        "measured": asdict(plan.measured),
        "layouts": [
            {
                "layout": asdict(estimate.layout),
                "ranks": estimate.layout.world_size,
                "micro_batch": estimate.micro_batch,
                "num_threads": estimate.num_threads,
                "memory": {
                    **asdict(estimate.memory),
                    "peak": estimate.memory.peak,
                    "peak_phase": estimate.memory.peak_phase,
                },
                "seconds": asdict(estimate.time),
                "bandwidth": asdict(estimate.bandwidth) if estimate.bandwidth else None,
            }
            for estimate in plan.estimates
        ],
        "origins": origins(plan, config),
    }


def size(value: float) -> str:
    """Bytes, in decimal units.

    >>> size(1_571_000_000), size(4_336_040), size(0)
    ('1.57 GB', '4.34 MB', '0 B')
    """
    for factor, unit in _UNITS:
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f} B"


def duration(seconds: float) -> str:
    """
    >>> duration(0.0123), duration(3.21), duration(75), duration(7384)
    ('12.3 ms', '3.21 s', '1 min 15 s', '2 h 3 min')
    """
    if seconds < 1:
        return f"{1e3 * seconds:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
