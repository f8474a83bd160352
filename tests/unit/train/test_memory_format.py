"""Where images are laid out channel by channel, and where that would break gradients."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from scaledl.config import load_config
from scaledl.data import Arrays, BatchLoader, DataSpec
from scaledl.distributed.ranks import Ranks
from scaledl.models.structure import new_model
from scaledl.run import Run
from scaledl.train.settings import resolve_settings

pytestmark = pytest.mark.unit

# A step as `trainer.precision: auto` measures it, on images that a loader gives: a crash ends the process.
STEP = """
import torch
from scaledl.config import load_config
from scaledl.data import Arrays, DataModule, DataSpec
from scaledl.data import Arrays, BatchLoader, DataSpec
from scaledl.distributed.ranks import Ranks
from scaledl.models.structure import new_model
from scaledl.run import Run
from scaledl.train.settings import resolve_settings
import sys
width, channels, size = map(int, sys.argv[2:])
words = [f"model.width={width}", "model.depth=8", "trainer.accelerator=cpu", "data.batch_size=16"]
config = load_config(None, words)
images = torch.randint(0, 256, (32, size, size, channels), dtype=torch.uint8)
arrays = Arrays(images, torch.arange(32) % 2, torch.arange(32))
values = (0.5,) * channels
data = DataModule(DataSpec("x", (channels, size, size), ("a", "b"), values, values, "f"), arrays, arrays, arrays)
run = Run.create(sys.argv[1], "x", config=config)
run.checkpoints.mkdir(exist_ok=True)
print(resolve_settings(config, run, data, new_model(config.model, data.spec.in_shape, 2, 0), Ranks()).channels_last)
"""


@pytest.mark.parametrize(
    ("width", "wanted", "expected"), [(16, "auto", True), (8, "auto", False), (8, "true", False), (16, "false", False)]
)
def test_narrow_strided_convolutions_are_kept_out_of_channels_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], width: int, wanted: str, expected: bool
) -> None:
    words = ["model.depth=8", f"model.width={width}", "trainer.precision=fp32", "trainer.compile=false"]
    config = load_config(None, [*words, "trainer.accelerator=cpu", f"trainer.channels_last={wanted}"])
    run = Run.create(tmp_path, "x", config=config)
    run.checkpoints.mkdir(exist_ok=True)
    model, unused = new_model(config.model, (1, 8, 8), 10, 0), None
    data: Any = unused
    assert resolve_settings(config, run, data, model, Ranks()).channels_last is expected
    assert ("oneDNN #6035" in capsys.readouterr().err) == (width == 8 and wanted == "true")


@pytest.mark.parametrize("family", ["mlp", "lstm", "transformer"])
def test_what_convolves_no_image_stays_out_of_channels_last(tmp_path: Path, family: str) -> None:
    words = ["trainer.precision=fp32", "trainer.compile=false", "trainer.accelerator=cpu"]
    config = load_config(None, [f"model.family={family}", *words])
    run = Run.create(tmp_path, "x", config=config)
    run.checkpoints.mkdir(exist_ok=True)
    unused: Any = None
    settings = resolve_settings(config, run, unused, new_model(config.model, (3, 8), 10, 0), Ranks())
    assert settings.channels_last is False


@pytest.mark.parametrize(("width", "channels", "size"), [(8, 3, 64), (4, 1, 8)])
def test_measuring_the_precision_of_a_narrow_model_survives(
    tmp_path: Path, width: int, channels: int, size: int
) -> None:
    words = [sys.executable, "-c", STEP, str(tmp_path), str(width), str(channels), str(size)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("channels", [1, 3])
def test_contiguous_images_stay_so_in_a_convolution(channels: int) -> None:
    images = torch.randint(0, 256, (4, 8, 8, channels), dtype=torch.uint8)
    values = (0.5,) * channels
    spec = DataSpec("x", (channels, 8, 8), ("a", "b"), values, values, "f")
    [batch] = BatchLoader(Arrays(images, torch.arange(4) % 2, torch.arange(4)), spec, 4)
    x = batch.contiguous().x
    assert torch.equal(x, batch.x)
    convolution = torch.nn.Conv2d(channels, 4, 3)
    assert convolution(x).is_contiguous()
    assert not convolution(batch.x).is_contiguous()
