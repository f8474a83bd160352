"""The tables of a report as plain values: what stands in each cell, not how it looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scaledl.config.figures import heading
from scaledl.report import units

MAX_CLASSES = 24
WORST_PAIRS = 20


@dataclass(frozen=True)
class Cell:
    text: str
    note: str = ""  # against the first row


@dataclass(frozen=True)
class StageTable:
    columns: list[str]
    rows: list[list[Cell]]


def stage_table(rows: list[dict[str, Any]]) -> StageTable:
    """The before/after table: each row's figures, and beside them the ratio to the first row."""
    batch_sizes = sorted({size for row in rows for size in row.get("latency_ms", {})}, key=int)
    columns = ["Stage", heading(f"Test_{_metric(rows[0])}"), "Parameters", "MACs", "File size"]
    columns += [f"Latency, batch {size}" for size in batch_sizes]
    return StageTable(columns, [_stage_cells(row, rows[0], batch_sizes) for row in rows])


def _stage_cells(row: dict[str, Any], first: dict[str, Any], batch_sizes: list[str]) -> list[Cell]:
    def ratio(key: str) -> str:
        return units.times_less(first.get(key), row.get(key))

    def latency(size: str) -> Cell:
        start, now = first.get("latency_ms", {}).get(size), row.get("latency_ms", {}).get(size)
        mark = "~" if now is not None and row.get("noisy") else ""
        return Cell(mark + units.milliseconds(now), units.times_less(start, now))

    score, metric = _score(row), _metric(row)
    return [
        Cell(str(row.get("name", units.MISSING))),
        Cell(units.metric(metric, score), units.change(metric, _score(first), score)),
        Cell(units.count(row.get("params")), ratio("params")),
        Cell(units.count(row.get("macs")), ratio("macs")),
        Cell(units.size(row.get("size_bytes")), ratio("size_bytes")),
        *(latency(size) for size in batch_sizes),
    ]


def _metric(row: dict[str, Any]) -> str:
    return str(row.get("metric", "accuracy"))


def _score(row: dict[str, Any]) -> float | None:
    """Tables of before had an accuracy."""
    return row.get("score", row.get("accuracy"))


@dataclass(frozen=True)
class ConfusionCell:
    count: int
    share: float  # of its true class, 0..1


@dataclass(frozen=True)
class Confusion:
    """Rows are true classes, columns predicted ones. With many classes only the worst pairs are listed."""

    labels: list[str]
    rows: list[list[ConfusionCell]]
    worst: list[tuple[str, str, int]]  # true, predicted, count; most frequent first


def confusion_table(matrix: list[list[int]], labels: list[str]) -> Confusion:
    """Counts [C, C] (true, predicted) with the share that each is of its true class."""
    names = [labels[i] if i < len(labels) else str(i) for i in range(len(matrix))]
    pairs = [
        (names[i], names[j], number)
        for i, row in enumerate(matrix)
        for j, number in enumerate(row)
        if i != j and number > 0
    ]
    worst = sorted(pairs, key=lambda pair: -pair[2])[:WORST_PAIRS]
    rows = [] if len(matrix) > MAX_CLASSES else [_confusion_row(row) for row in matrix]
    return Confusion(names, rows, worst)


def _confusion_row(row: list[int]) -> list[ConfusionCell]:
    total = sum(row) or 1
    return [ConfusionCell(number, number / total) for number in row]
