"""The before/after table of a chain: its rows, as JSON and as text."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaledl.config.figures import difference, heading, written
from scaledl.errors import UsageError
from scaledl.run import atomic_json

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class StageRow:
    """One model of a chain, measured on its exported file ("start (eager)": on the module in eager mode).

    `score` is the task's headline on the test split, `metric` its name, `macs` are for one sample, `latency_ms` maps
    batch sizes to medians of measurements interleaved with the start's; `noisy` when these scatter too much to be
    quoted. `file` is relative to the chain's run.
    """

    name: str
    score: float
    params: int
    macs: int
    size_bytes: int
    latency_ms: dict[int, float] = field(default_factory=dict)
    noisy: bool = False
    file: str = ""
    metric: str = "accuracy"

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StageRow:
        """The reverse of `to_json`; older rows have no score but an accuracy."""
        latency = {int(size): float(ms) for size, ms in value["latency_ms"].items()}
        rest = {key: item for key, item in value.items() if key != "accuracy"}
        score = value["score"] if "score" in value else value["accuracy"]
        return cls(**{**rest, "score": score, "latency_ms": latency})

    def to_json(self) -> dict[str, Any]:
        """Plain values; an accuracy stands under its own name, too."""
        return dataclasses.asdict(self) | ({"accuracy": self.score} if self.metric == "accuracy" else {})

    def metrics(self) -> dict[str, float]:
        """Flat figures for a manifest."""
        figures = {
            f"test_{self.metric}": self.score,
            "params": float(self.params),
            "macs": float(self.macs),
            "size_bytes": float(self.size_bytes),
        }
        return figures | {f"latency_ms_batch_{size}": ms for size, ms in self.latency_ms.items()}


def write_rows(path: Path, rows: Sequence[StageRow]) -> None:
    """Write a table of rows, atomically."""
    atomic_json(path, {"schema_version": SCHEMA_VERSION, "rows": [row.to_json() for row in rows]})


def read_rows(path: Path) -> list[StageRow]:
    """The rows that `write_rows` wrote; a UsageError names a file that is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [StageRow.from_json(row) for row in content["rows"]]
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; the chain has not been finished") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: not a table of stages: {error!r}; run the same compress command again") from None


def format_rows(rows: Sequence[StageRow]) -> tuple[list[str], list[list[str]]]:
    """Columns and cells; behind each figure how many times smaller than the first row's it is, of a score what changed.

    >>> start = StageRow("start", 0.98, 1000, 2000, 4000, {1: 5.0})
    >>> small = StageRow("stage 1 prune", 0.975, 250, 500, 1000, {1: 0.5}, noisy=True)
    >>> for row in format_rows([start, small])[1]:
    ...     print(" | ".join(row))
    start | 98.00 % | 1,000 | 2,000 | 4.0 kB | 5.000
    stage 1 prune | 97.50 % (-0.50) | 250 (4.0x) | 500 (4.0x) | 1.0 kB (4.0x) | ~0.500 (10.0x)
    """
    sizes = sorted({size for row in rows for size in row.latency_ms})
    columns = [
        "stage",
        heading(f"test_{rows[0].metric}"),
        "parameters",
        "MACs",
        "file size",
        *(f"ms@{size}" for size in sizes),
    ]
    return columns, [_cells(row, rows[0], sizes) for row in rows]


def footnote(rows: Sequence[StageRow]) -> str:
    """What the marks in the table mean, or an empty text where there are none."""
    noisy = any(row.noisy and row.latency_ms for row in rows)
    return "~ scattered too much to be trusted, as on a busy machine; measure again on a quiet one" if noisy else ""


def summary(row: StageRow, start: StageRow) -> str:
    """One line on a finished stage.

    >>> start = StageRow("start", 0.98, 1000, 2000, 4000, {1: 5.0})
    >>> summary(StageRow("stage 1 prune", 0.975, 250, 500, 1000, {1: 0.5}), start)
    'stage 1 prune: test accuracy 97.50 % (-0.50), file 1.0 kB (4.0x), 0.500 ms (10.0x) at batch 1'
    """
    sizes = sorted(row.latency_ms)
    cells = _cells(row, start, sizes)
    times = "".join(f", {_latency(row, start, size).replace(' (', ' ms (')} at batch {size}" for size in sizes)
    return f"{row.name}: {heading(f'test_{row.metric}')} {cells[1]}, file {cells[4]}{times}"


def _cells(row: StageRow, start: StageRow, sizes: Sequence[int]) -> list[str]:
    change = "" if row is start else f" ({difference(row.metric, start.score, row.score)})"
    return [
        row.name,
        written(row.metric, row.score) + change,
        f"{row.params:,}" + _ratio(start.params, row.params),
        f"{row.macs:,}" + _ratio(start.macs, row.macs),
        f"{row.size_bytes / 1000:,.1f} kB" + _ratio(start.size_bytes, row.size_bytes),
        *(_latency(row, start, size) for size in sizes),
    ]


def _latency(row: StageRow, start: StageRow, size: int) -> str:
    now, before = row.latency_ms.get(size), start.latency_ms.get(size)
    if now is None:
        return "-"
    return ("~" if row.noisy else "") + f"{now:.3f}" + _ratio(before, now)


def _ratio(before: float | None, now: float) -> str:
    return "" if not before or not now or before == now else f" ({before / now:.1f}x)"
