from __future__ import annotations

from typing import Any

import pytest

from scaledl.report.tables import MAX_CLASSES, confusion_table, stage_table

pytestmark = pytest.mark.unit


def row(name: str, **changes: Any) -> dict[str, Any]:
    figures = {"accuracy": 0.98, "params": 1000, "macs": 4000, "size_bytes": 8000, "latency_ms": {"64": 9.0, "1": 3.0}}
    return {"name": name} | figures | changes


def test_figures_stand_beside_their_ratio_to_the_first_row() -> None:
    rows = [row("teacher"), row("qat", accuracy=0.975, params=250, size_bytes=16000, latency_ms={"1": 0.5, "64": 9.0})]
    table = stage_table(rows)
    assert table.columns[-2:] == ["Latency, batch 1", "Latency, batch 64"]
    first, last = table.rows
    assert all(cell.note == "" for cell in first)
    assert [(cell.text, cell.note) for cell in last] == [
        ("qat", ""),
        ("97.50 %", "−0.50 points"),
        ("250", "4.00× less"),
        ("4.00 k", ""),
        ("16.0 kB", "2.00× more"),
        ("0.500 ms", "6.00× less"),
        ("9.00 ms", ""),
    ]


def test_batch_sizes_are_ordered_as_numbers() -> None:
    table = stage_table([row("a", latency_ms={"64": 1.0, "8": 1.0, "128": 1.0})])
    assert table.columns[-3:] == ["Latency, batch 8", "Latency, batch 64", "Latency, batch 128"]


def test_a_figure_that_was_not_measured_is_a_dash() -> None:
    table = stage_table([row("a"), {"name": "b", "accuracy": None}])
    assert [cell.text for cell in table.rows[1]] == ["b"] + ["–"] * 6


def test_confusion_shares_are_of_the_true_class() -> None:
    table = confusion_table([[3, 1], [0, 0]], ["cat", "dog"])
    assert [[cell.share for cell in cells] for cells in table.rows] == [[0.75, 0.25], [0, 0]]
    assert table.worst == [("cat", "dog", 1)]


def test_many_classes_become_a_list_of_the_worst_pairs() -> None:
    size = MAX_CLASSES + 1
    matrix = [[0] * size for _ in range(size)]
    matrix[0][1], matrix[2][0], matrix[3][3] = 4, 7, 50
    table = confusion_table(matrix, [f"c{i}" for i in range(size)])
    assert table.rows == []
    assert table.worst == [("c2", "c0", 7), ("c0", "c1", 4)]


def test_classes_without_a_label_are_numbered() -> None:
    assert confusion_table([[1, 0], [0, 1]], ["only"]).labels == ["only", "1"]


def test_a_noisy_latency_is_marked() -> None:
    table = stage_table([row("a"), row("b", noisy=True)])
    assert [[cell.text for cell in cells[-2:]] for cells in table.rows] == [
        ["3.00 ms", "9.00 ms"],
        ["~3.00 ms", "~9.00 ms"],
    ]
