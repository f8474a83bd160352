"""The before/after table."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaledl.compress.rows import StageRow, footnote, format_rows, read_rows, summary, write_rows
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

START = StageRow("start", 0.98, 1000, 8000, 4000, {1: 5.0, 64: 50.0}, file="exports/start.ts")
SMALL = StageRow("stage 1 prune", 0.9705, 250, 1000, 1000, {1: 0.5, 64: 20.0}, noisy=True)


def test_rows_come_back_from_json(tmp_path: Path) -> None:
    write_rows(tmp_path / "table.json", [START, SMALL])
    assert read_rows(tmp_path / "table.json") == [START, SMALL]


def test_every_figure_stands_with_its_ratio_to_the_start() -> None:
    columns, cells = format_rows([START, SMALL])
    assert columns == ["stage", "test accuracy", "parameters", "MACs", "file size", "ms@1", "ms@64"]
    assert cells[0] == ["start", "98.00 %", "1,000", "8,000", "4.0 kB", "5.000", "50.000"]
    assert cells[1][1:] == [
        "97.05 % (-0.95)",
        "250 (4.0x)",
        "1,000 (8.0x)",
        "1.0 kB (4.0x)",
        "~0.500 (10.0x)",
        "~20.000 (2.5x)",
    ]


def test_the_mark_of_noise_is_explained_where_it_stands() -> None:
    assert footnote([START]) == ""
    assert footnote([START, SMALL]).startswith("~ scattered too much to be trusted")
    assert footnote([START, StageRow("x", 0.5, 1, 1, 1, noisy=True)]) == ""  # no latency, no mark


def test_scores_are_called_and_written_after_their_metric() -> None:
    rows = [StageRow("start", 53.1, 10, 10, 10, metric="rmse"), StageRow("small", 54.0, 5, 5, 5, metric="rmse")]
    columns, cells = format_rows(rows)
    assert columns[1] == "test RMSE"
    assert [row[1] for row in cells] == ["53.1", "54 (+0.9)"]
    assert summary(rows[1], rows[0]).startswith("small: test RMSE 54 (+0.9), ")
    assert rows[1].metrics()["test_rmse"] == 54.0


def test_an_accuracy_stands_under_its_own_name_and_older_tables_had_only_that(tmp_path: Path) -> None:
    assert START.to_json()["accuracy"] == START.to_json()["score"] == 0.98
    assert "accuracy" not in StageRow("start", 53.1, 10, 10, 10, metric="rmse").to_json()
    old = {key: value for key, value in START.to_json().items() if key not in ("score", "metric")}
    assert StageRow.from_json(old) == START


def test_a_missing_latency_is_a_dash() -> None:
    assert format_rows([START, StageRow("x", 0.5, 1, 1, 1, {1: 1.0})])[1][1][-1] == "-"


def test_metrics_are_flat_numbers() -> None:
    metrics = START.metrics()
    assert metrics["test_accuracy"] == 0.98
    assert metrics["latency_ms_batch_64"] == 50.0
    assert all(isinstance(value, float) for value in metrics.values())


@pytest.mark.parametrize("content", ["", "[]", '{"rows": [{}]}', '{"rows": [{"latency_ms": {"x": 1}}]}', "null"])
def test_a_damaged_table_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"table\.json: not a table"):
        read_rows(path)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"table\.json: No such file.*not been finished"):
        read_rows(tmp_path / "table.json")
