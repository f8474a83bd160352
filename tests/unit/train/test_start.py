"""A training that begins with learned weights: what it tells, keeps, and needs no longer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning  # noqa: F401  (it sets a variable when it is first imported)
import torch

from scaledl import api
from scaledl.config import Config, replace
from scaledl.data import build_data
from scaledl.errors import UsageError
from scaledl.run import Run
from scaledl.train.start import find_start, keep_start

pytestmark = pytest.mark.unit

BASE = Config.model_validate(
    {
        "model": {"family": "mlp", "hidden": [12]},
        "data": {"batch_size": 512},
        "trainer": {"epochs": 1, "precision": "fp32", "num_threads": 1},
        "run": {"name": "first", "id": "one"},
    }
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with the complete run first/one."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("runs")
    api.train(replace(BASE, {"run.root": str(root)}))
    return root


def second(root: Path, **keys: Any) -> Config:
    return replace(BASE, {"run.root": str(root), "run.name": "second", "model.pretrained": "first/one", **keys})


def test_a_run_tells_what_it_begins_with(source: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = api.train(second(source))
    assert f"begins with {source}/first/one: 4 tensors loaded" in capfd.readouterr().out
    report = json.loads((run.path / "pretrained.json").read_text())
    assert sorted(report["loaded"]) == ["head.bias", "head.weight", "hidden.0.bias", "hidden.0.weight"]
    assert report["sha256"] == Run.open(source / "first/one").as_parent().sha256 == run.manifest.parents[0].sha256
    assert "pretrained.json" in run.manifest.files
    run.verify_files("start")


def test_later_attempts_need_the_source_no_more(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source / "first", tmp_path / "first")
    config = second(tmp_path)
    data = build_data(config.data, 0)
    run = Run.create(tmp_path, "second", "one", config=config)
    start = find_start(config, data.spec, run.path)
    with run.attempt():
        keep_start(run, start)
        run.finish("preempted")
    shutil.rmtree(tmp_path / "first")
    again = find_start(config, data.spec, run.path)
    assert again.report is None
    assert again.model.structure == start.model.structure
    state = again.model.module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in start.model.module.state_dict().items())
    assert api.train(config).state == "complete"


@pytest.mark.parametrize("transfer", [{"transfer.freeze": ["hidden.*"]}, {"transfer.lora.rank": 2}])
def test_random_values_that_never_learn_are_told(
    source: Path, transfer: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    [key] = (name.rpartition(".")[0] if "lora" in name else name for name in transfer)
    whole = second(source, **transfer)
    data = build_data(whole.data, 0)
    find_start(whole, data.spec)
    assert "random" not in capfd.readouterr().err
    find_start(replace(whole, {"model.pretrained": None}), data.spec)
    said = capfd.readouterr().err
    assert f"{key}: hidden.0.bias, hidden.0.weight begin with random values and never learn" in said
    assert "fix: model.pretrained loads learned ones" in said
    find_start(replace(whole, {"transfer.head": "replace"}), data.spec)
    assert "random" not in capfd.readouterr().err, "the head begins anew, and learns"


def test_what_does_not_fit_leaves_no_run_behind(source: Path) -> None:
    for keys, message in (
        ({"model.hidden": [8]}, "is of another model"),
        ({"model.pretrained": "nosuch"}, "no run 'nosuch'"),
        ({"transfer.freeze": ["nose"]}, "matches no parameter"),
    ):
        with pytest.raises(UsageError, match=message):
            api.train(second(source, **{"run.name": "third", **keys}))
    assert not (source / "third").exists()
