"""What `trainer.precision=auto` becomes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from scaledl.cli import main
from scaledl.config import load_config
from scaledl.data import Batch, DataSpec
from scaledl.models.structure import Model, new_model
from scaledl.tasks.model import task_around
from scaledl.train.precision import bf16_problem, resolve_precision

pytestmark = pytest.mark.unit


class FailsInBf16(nn.Module):
    """As attention that fills in the smallest float32 where autocast made its scores bfloat16 (DeBERTa)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.layer(x)
        return scores.masked_fill(scores.isnan(), torch.finfo(x.dtype).min)


OWN = """\
import torch

class Model(torch.nn.Module):
    def __init__(self, inputs, num_classes):
        super().__init__()
        self.layer = torch.nn.Linear(inputs.shape[0], num_classes)

    def forward(self, x):
        scores = self.layer(x)
        return scores.masked_fill(scores.isnan(), torch.finfo(x.dtype).min)
"""


def test_a_teacher_that_fails_in_bf16_is_found_out() -> None:
    sound = new_model(load_config(None, ["model.family=mlp"]).model, (4,), 2, seed=0)
    assert bf16_problem(sound) == ""
    assert "without overflow" in bf16_problem(Model(FailsInBf16(), sound.structure))


def test_a_model_that_fails_in_bf16_trains_in_fp32(capsys: pytest.CaptureFixture[str]) -> None:
    spec = DataSpec("made-up", (4,), ("a", "b"), (0.0,), (1.0,), "0")
    task = task_around(FailsInBf16(), load_config(None, []), spec)
    batch = Batch(torch.rand(8, 4), torch.arange(8) % 2, torch.arange(8))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match="without overflow"):
        task.step(batch)
    assert resolve_precision(task, batch) == "fp32"
    assert "precision auto: fp32, as the model fails in bf16 (value cannot be" in capsys.readouterr().out


def test_bf16_that_a_model_fails_in_is_refused_before_a_run_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fails_in_bf16.py").write_text(OWN)
    words = ["data.source=iris", "model.family=external", "model.name=fails_in_bf16:Model", "trainer.epochs=1"]
    assert main(["train", *words, "--trust", "trainer.precision=bf16"]) == 2
    err = capsys.readouterr().err
    assert "trainer.precision: got bf16, and fails_in_bf16:Model fails in it (value cannot be" in err
    assert err.strip().endswith("allowed: auto, fp32")
    assert not (tmp_path / "runs").exists()
