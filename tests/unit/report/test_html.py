from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.unit.report.page import Page

from scaledl.config.load import load_config
from scaledl.report import write_report
from scaledl.run import Run

pytestmark = pytest.mark.unit

PAYLOAD = "<script>alert('x')</script>&\""


def write_metrics(run: Run) -> None:
    lines = [{"kind": "train", "step": step, "epoch": 0, "loss": 100 / step, "lr": 1e-3} for step in range(50, 300, 50)]
    lines += [{"kind": "val", "step": 100, "epoch": 0, "val_loss": 0.9, "val_accuracy": 0.5}]
    lines += [{"kind": "val", "step": 200, "epoch": 1, "val_loss": 0.4, "val_accuracy": 0.9}]
    run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "tr')


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def train_run(root: Path, name: str = "digits", **config: Any) -> Run:
    run = Run.create(root, name, config=load_config(None, [f"{key}={value}" for key, value in config.items()]))
    run.model_dir.mkdir()
    (run.model_dir / "weights.safetensors").write_bytes(run.id.encode())
    run.record("model")
    run.finish("complete", test_accuracy=0.9833, val_loss=0.0512)
    return run


def page_of(run: Run, root: Path) -> Page:
    path = write_report(run, root)
    assert path == run.path / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def test_a_whole_run_on_one_page_without_the_network(tmp_path: Path) -> None:
    run = train_run(tmp_path, **{"optimizer.lr": 0.0123})
    write_metrics(run)
    confusion = [[9, 1], [0, 10]]
    write_json(
        run.path / "evaluation.json",
        {"accuracy": 0.95, "loss": 0.1, "count": 20, "labels": ["cat", "dog"], "confusion": confusion},
    )
    page = page_of(run, tmp_path)
    for text in (f"digits/{run.id}", "complete", "98.33 %", "0.0512", "lr: 0.0123", "95.00 %", "20 samples", "cat"):
        assert text in page.text
    labels = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert labels == ["Loss by step", "Validation accuracy by step"]
    assert "model/weights.safetensors" in page.text
    manifest = run.manifest
    assert manifest.versions["python"] in page.text
    assert f"{manifest.created[:10]} {manifest.created[11:19]} UTC" in page.text


def test_nothing_on_the_page_leads_outside(tmp_path: Path) -> None:
    run = train_run(tmp_path)
    write_metrics(run)
    text = write_report(run, tmp_path).read_text(encoding="utf-8")
    page = Page(text)
    assert page.names().isdisjoint({"script", "link", "img", "iframe", "object", "embed", "a", "form", "base"})
    assert not {"src", "href", "action", "onload", "xmlns"} & {key for _, attributes in page.tags for key in attributes}
    assert re.findall(r"https?:|//|url\(|@import", text) == []
    assert "default-src 'none'" in text


def test_user_texts_are_shown_and_never_run(tmp_path: Path) -> None:
    run = train_run(tmp_path)
    run.finish("failed", error=PAYLOAD)
    labels = [PAYLOAD, "dog"]
    write_json(run.path / "evaluation.json", {"accuracy": 0.5, "labels": labels, "confusion": [[1, 1], [0, 2]]})
    write_json(run.path / "table.json", {"rows": [{"name": PAYLOAD, "accuracy": 0.5}]})
    page = page_of(run, tmp_path)
    assert "script" not in page.names()
    assert page.text.count(PAYLOAD) == 5  # error, stage, row and column of the matrix, list of confusions


def test_before_and_after_with_ratios(tmp_path: Path) -> None:
    run = train_run(tmp_path)
    rows = [
        {"name": "teacher", "accuracy": 0.98, "params": 80_000, "size_bytes": 320_000, "latency_ms": {"1": 4.0}},
        {"name": "qat", "accuracy": 0.975, "params": 10_000, "size_bytes": 16_000, "latency_ms": {"1": 0.2}},
    ]
    write_json(run.path / "table.json", {"rows": rows})
    page = page_of(run, tmp_path)
    for text in ("Latency, batch 1", "0.200 ms", "20.0× less", "8.00× less", "−0.50 points"):
        assert text in page.text


def test_stages_stand_on_the_page_of_their_run(tmp_path: Path) -> None:
    source = train_run(tmp_path)
    run = Run.create(tmp_path, "digits", kind="compress", config=load_config(), parents=(source.as_parent(),))
    config = load_config(None, ["trainer.epochs=77"])
    stage = run.nested("stages/01-distill", config=config, parents=(source.as_parent(),))
    write_metrics(stage)
    stage.finish("failed", error="the loss became NaN")
    page = page_of(run, tmp_path)
    for text in ("01-distill", "the loss became NaN", "epochs: 77"):
        assert text in page.text
    assert "svg" in page.names()


def test_lineage_shows_parents_children_and_what_is_gone(tmp_path: Path) -> None:
    source = train_run(tmp_path)
    run = Run.create(tmp_path, "digits", kind="compress", config=load_config(), parents=(source.as_parent(),))
    assert f"digits/{source.id}" in page_of(run, tmp_path).text
    assert f"digits/{run.id}" in page_of(source, tmp_path).text
    source.path.rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/manifest.json").unlink()
    gone = page_of(run, tmp_path).text
    assert f"digits/{source.id}" in gone
    assert "not in this folder any more" in gone


def test_a_run_that_has_nothing_yet_has_a_page(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "empty", config=load_config())
    page = page_of(run, tmp_path)
    assert f"empty/{run.id}" in page.text
    assert "svg" not in page.names()
    assert "Before and after" not in page.text


@pytest.mark.parametrize("content", ["", '{"rows": [', "[]", "\x00"])
def test_a_damaged_file_is_named_and_the_rest_is_shown(tmp_path: Path, content: str) -> None:
    run = train_run(tmp_path)
    (run.path / "table.json").write_text(content)
    page = page_of(run, tmp_path)
    assert "table.json is damaged and was left out" in page.text
    assert "98.33 %" in page.text


def test_written_again_it_replaces_the_old_page(tmp_path: Path) -> None:
    run = train_run(tmp_path)
    first = write_report(run, tmp_path).read_text()
    run.finish("complete", test_accuracy=0.5)
    second = write_report(run, tmp_path).read_text()
    assert first != second
    assert "50.00 %" in second
    assert [path.name for path in run.path.glob("report*")] == ["report.html"]
