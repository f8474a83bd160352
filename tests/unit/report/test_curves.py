from __future__ import annotations

import json
from pathlib import Path

import pytest

from scaledl.report.curves import MAX_TRAIN_POINTS, Curves, read_curves

pytestmark = pytest.mark.unit


def write(path: Path, *records: object, tail: str = "") -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + tail)
    return path


def train(step: int, loss: object) -> dict[str, object]:
    return {"kind": "train", "step": step, "epoch": 0, "loss": loss, "lr": 1e-3}


def val(step: int, accuracy: float) -> dict[str, object]:
    return {"kind": "val", "step": step, "epoch": 0, "val_loss": 1 - accuracy, "val_accuracy": accuracy}


def test_curves_of_a_whole_file(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", train(50, 2.0), val(60, 0.5), train(100, 1.0), val(120, 0.75))
    assert read_curves(path) == Curves(
        train_loss=[(50, 2.0), (100, 1.0)],
        val_loss=[(60, 0.5), (120, 0.25)],
        figure="val_accuracy",
        val_figure=[(60, 0.5), (120, 0.75)],
    )


def test_the_headline_of_the_task_has_a_chart(tmp_path: Path) -> None:
    record = {"kind": "val", "step": 3, "epoch": 0, "val_loss": 1.0, "val_rmse": 53.0, "val_mae": 40.0}
    curves = read_curves(write(tmp_path / "m.jsonl", record, {**record, "step": 6, "val_rmse": 50.0}))
    assert (curves.figure, curves.val_figure) == ("val_rmse", [(3, 53.0), (6, 50.0)])
    assert "Validation RMSE by step" in str(curves.charts()[-1])


def test_no_file_has_no_curves_and_no_charts(tmp_path: Path) -> None:
    curves = read_curves(tmp_path / "none.jsonl")
    assert curves == Curves([], [], "", [])
    assert curves.charts() == []


@pytest.mark.parametrize("tail", ['{"kind": "train", "step": 150, "lo', "\n", "\x00\x00", "[1, 2]\n", '"text"\n'])
def test_a_cut_or_foreign_last_line_costs_nothing_else(tmp_path: Path, tail: str) -> None:
    path = write(tmp_path / "m.jsonl", train(50, 2.0), val(60, 0.5), tail=tail)
    curves = read_curves(path)
    assert curves.train_loss == [(50, 2.0)]
    assert curves.val_figure == [(60, 0.5)]


def test_bytes_that_are_no_text_are_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", train(50, 2.0))
    path.write_bytes(path.read_bytes() + b'{"kind": "train", "step": 60, "loss": \xff\xfe\n')
    assert read_curves(path).train_loss == [(50, 2.0)]


def test_a_step_recorded_again_after_a_resume_counts_once_and_in_order(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", train(50, 2.0), train(100, 9.0), train(150, 8.0), train(100, 1.0))
    assert read_curves(path).train_loss == [(50, 2.0), (100, 1.0), (150, 8.0)]


def test_the_loss_of_every_step_is_drawn_where_it_is_recorded(tmp_path: Path) -> None:
    first, second = train(2, 1.5) | {"losses": [2.0, 1.0]}, train(3, 0.5) | {"losses": [0.5]}
    path = write(tmp_path / "m.jsonl", first, second)
    assert read_curves(path).train_loss == [(1, 2.0), (2, 1.0), (3, 0.5)]


def test_many_steps_are_averaged_over_stretches(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", train(1000, 0.0) | {"losses": [float(i % 2) for i in range(1000)]})
    curve = read_curves(path).train_loss
    assert len(curve) == MAX_TRAIN_POINTS
    assert curve[-1][0] == 1000
    assert sum(loss for _, loss in curve) / len(curve) == pytest.approx(0.5)


def test_records_without_a_number_are_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", train(50, None), train(60, "high"), {"kind": "train", "loss": 1.0}, train(70, 1))
    assert read_curves(path).train_loss == [(70, 1)]


def test_charts_say_what_they_show(tmp_path: Path) -> None:
    losses, accuracy = read_curves(write(tmp_path / "m.jsonl", train(50, 2.0), val(60, 0.5))).charts()
    assert "training" in losses
    assert "validation" in losses
    assert "validation accuracy, %" in accuracy
