"""What `metrics.jsonl` says about a run, as curves."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from scaledl.config.figures import figure_of, heading
from scaledl.report.charts import Point, line_chart

MAX_TRAIN_POINTS = 200  # of single batches: more would show their noise, not the course


@dataclass(frozen=True)
class Curves:
    """Points (optimizer step, value), by step."""

    train_loss: list[Point]
    val_loss: list[Point]
    figure: str  # the task's headline as it is recorded, such as val_accuracy; empty where there is none
    val_figure: list[Point]

    def charts(self) -> list[Markup]:
        charts = []
        losses = {"training": self.train_loss, "validation": self.val_loss}
        if any(losses.values()):
            charts.append(line_chart(losses, title="Loss by step", x_label="step", y_label="loss"))
        if self.val_figure:
            found = figure_of(self.figure)
            scale, unit = (100, ", %") if found is not None and found.is_share else (1, "")
            points = {"validation": [(step, scale * value) for step, value in self.val_figure]}
            name = heading(self.figure.removeprefix("val_"))
            title, label = f"Validation {name} by step", f"validation {name}{unit}"
            charts.append(line_chart(points, title=title, x_label="step", y_label=label))
        return charts


def read_curves(path: Path) -> Curves:
    """Read a metrics file; no file gives no points, and lines that are not whole are skipped.

    Where a resumed attempt recorded a step again, the later line counts.
    """
    records = list(_records(path))
    figure = _headline(records)
    return Curves(
        train_loss=averaged(_train_loss(records)),
        val_loss=_series(records, "val", "val_loss"),
        figure=figure,
        val_figure=_series(records, "val", figure),
    )


def averaged(points: list[Point], limit: int = MAX_TRAIN_POINTS) -> list[Point]:
    """Means over equal stretches of points, at most `limit` of them, each at its stretch's last step.

    >>> averaged([(1, 4.0), (2, 2.0), (3, 1.0)], limit=2)
    [(2, 3.0), (3, 1.0)]
    """
    size = math.ceil(len(points) / limit)
    stretches = (points[start : start + size] for start in range(0, len(points), size or 1))
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in stretches]


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:  # a killed run leaves half a line
                continue
            if isinstance(record, dict):
                yield record


def _train_loss(records: list[dict[str, Any]]) -> list[Point]:
    """The loss of every step where `losses` has them (up to and including the record's step), else the record's."""
    values: dict[float, float] = {}
    for record in records:
        step = record.get("step")
        if record.get("kind") == "train" and isinstance(step, int):
            losses = record.get("losses") or [record.get("loss")]
            first = step - len(losses) + 1
            values |= {first + i: loss for i, loss in enumerate(losses) if isinstance(loss, (int, float))}
    return sorted(values.items())


def _headline(records: list[dict[str, Any]]) -> str:
    """The first figure of a validation beside the loss: that is how they are recorded."""
    validations = (record for record in records if record.get("kind") == "val")
    names = (name for record in validations for name in record if name.startswith("val_") and name != "val_loss")
    return next((name for name in names if figure_of(name)), "")


def _series(records: list[dict[str, Any]], kind: str, key: str) -> list[Point]:
    values: dict[float, float] = {}
    for record in records:
        step, value = record.get("step"), record.get(key)
        if record.get("kind") == kind and isinstance(step, (int, float)) and isinstance(value, (int, float)):
            values[step] = value
    return sorted(values.items())
