"""What cannot be trained is told before a run is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaledl import api
from scaledl.config import load_config
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.name=contrastive"], r"data\.augment: nothing is on"),
        (["task.name=regression"], r"task\.name: got regression, and the targets of data.source digits are 'class'"),
        (
            ["task.name=multi_task", "task.heads={a: {kind: class, columns: [a]}}"],
            "got multi_task, .* are 'class'; allowed for them: .*classification.*; multi_task learns several columns "
            r"of each sample \(data\.prepare\.targets\), and nothing of its steps or pixels",
        ),
        (["task.name=transcription"], "got transcription, and the targets of data.source digits are 'class'"),
        (["task.name=language_modeling"], "are of modality image; allowed: texts"),
        (["task.loss=nowhere.at.all:loss"], "task.loss: 'nowhere.at.all:loss': cannot be imported"),
        (["task.class_weights=[1.0, 2.0]"], "task.class_weights: got 2; allowed: 10, one for each class"),
        (["task.name=reconstruction", "task.anomaly_label=eleven"], "task.anomaly_label: got 'eleven'; allowed: 0, 1"),
        (["task.name=semi_supervised", "task.unlabeled_fraction=0.9999"], "no sample is left with a label"),
        (["data.augment.series.noise=0.1"], r"data\.augment\.series"),
    ],
)
def test_no_run_is_left_behind(overrides: list[str], message: str, tmp_path: Path) -> None:
    config = load_config(None, ["model.family=mlp", f"run.root={tmp_path}", *overrides])
    with pytest.raises(UsageError, match=message):
        api.train(config)
    assert list(tmp_path.iterdir()) == []
