"""A task whose outputs are no classes, from training to the verified file, its tables and its report."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_diabetes

from scaledl import api
from scaledl.commands.output import entry_line, print_trained, run_row
from scaledl.compress.rows import format_rows, read_rows
from scaledl.config import Config, replace
from scaledl.config.registry import SOURCES
from scaledl.data import Arrays, DataModule, DataSpec
from scaledl.data.arrays import fingerprint, statistics
from scaledl.runtime import load

pytestmark = pytest.mark.unit


def load_numbers(config: Any) -> DataModule:
    found = load_diabetes()
    x, y = torch.tensor(found.data, dtype=torch.float32), torch.tensor(found.target, dtype=torch.float32).view(-1, 1)
    splits = [Arrays(x[rows], y[rows], rows) for rows in torch.arange(len(x)).split([300, 60, 82])]
    names = dict(zip(("train", "val", "test"), splits, strict=True))
    spec = DataSpec(
        *("numbers", (10,), ("progression",), *statistics(splits[0].inputs), fingerprint(names, ("progression",))),
        target="numbers",
        target_mean=(float(splits[0].labels.mean()),),
        target_std=(float(splits[0].labels.std()),),
    )
    return DataModule(spec, **names)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The training and its compression."""
    with pytest.MonkeyPatch.context() as patch:
        module = types.ModuleType("numbers_source")
        vars(module)["load_numbers"] = load_numbers
        patch.setitem(sys.modules, "numbers_source", module)
        patch.setattr(SOURCES, "_entries", dict(SOURCES._entries))
        SOURCES.register("numbers", "numbers_source:load_numbers")
        torch.set_num_threads(1)
        root = tmp_path_factory.mktemp("runs")
        plain = {"trainer.precision": "fp32", "trainer.num_threads": 1, "optimizer.lr": 0.02, "data.batch_size": 32}
        stages = [{"method": "prune", "importance": "taylor", "round_to": 8}, {"method": "qat"}]
        config = replace(
            Config(),
            {
                **plain,
                "data.source": "numbers",
                "model": {"family": "mlp", "hidden": [32]},
                "task": {"name": "regression"},
                "run": {"root": str(root), "id": "a", "name": "t"},
                "trainer.epochs": 12,
                "compress": {"stages": stages},
                "export.latency_batch_sizes": [1],
            },
        )
        run = api.train(config)
        yield run, api.compress(run, config), root


def test_a_run_is_judged_by_the_headline_of_its_task(trained: Any) -> None:
    run, _, _ = trained
    metrics = run.manifest.metrics
    assert {"val_loss", "val_rmse", "test_loss", "test_rmse", "test_mae", "test_r2"} <= metrics.keys()
    assert metrics["test_r2"] > 0.35
    assert run_row(run)[3] == f"RMSE {metrics['test_rmse']:.4g}"
    assert f"test RMSE {metrics['test_rmse']:.4g}" in entry_line(run, run)


def test_the_result_of_a_training_has_all_figures_the_headline_first(
    trained: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _, _ = trained
    print_trained(run)
    metrics = run.manifest.metrics
    assert capsys.readouterr().out.splitlines()[:4] == [
        f"test RMSE  {metrics['test_rmse']:.4g}",
        f"test MAE   {metrics['test_mae']:.4g}",
        f"test R²    {metrics['test_r2']:.4g}",
        f"run        {run.path}",
    ]


def test_the_chains_table_and_file_are_in_the_units_of_the_data(trained: Any) -> None:
    run, compressed, _ = trained
    rows = read_rows(compressed.path / "table.json")
    assert {row.metric for row in rows} == {"rmse"}
    assert rows[0].score == pytest.approx(run.manifest.metrics["test_rmse"], rel=1e-4)
    assert abs(rows[-1].score - rows[0].score) < 10
    columns, cells = format_rows(rows)
    assert columns[1] == "test RMSE"
    assert "%" not in cells[-1][1]
    table = json.loads((compressed.path / "table.json").read_text())["rows"]
    assert "accuracy" not in table[0]
    numbers = load(compressed.exports / "model.ts").predict(load_numbers(None).test.inputs)
    error = (numbers - load_numbers(None).test.labels).double().square().mean().sqrt()
    assert compressed.manifest.metrics["test_rmse"] == pytest.approx(float(error), rel=1e-4)


def test_the_report_calls_figures_by_their_names(trained: Any) -> None:
    _, compressed, _ = trained
    page = (compressed.path / "report.html").read_text()
    assert "Test RMSE" in page
    assert "Validation RMSE by step" in page
    assert "ccuracy" not in page.replace("val_accuracy", "")


def test_an_exported_file_is_evaluated_as_its_task_says(trained: Any) -> None:
    _, compressed, root = trained
    _, evaluation, _ = api.evaluate(str(compressed.exports / "model.ts"), Path(root))
    assert evaluation.headline == "rmse"
    assert evaluation.score == compressed.manifest.metrics["test_rmse"]
    assert api.verify(compressed.exports / "model.ts").metric == "rmse"
