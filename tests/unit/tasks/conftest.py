"""Small data of every kind of target, families that give every form of output, and a training of a second."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scaledl.config import Config, replace
from scaledl.data import Arrays, DataModule, DataSpec
from scaledl.data.arrays import statistics
from scaledl.data.datamodule import in_shape_of
from scaledl.evaluate import Evaluation, evaluate_split
from scaledl.models.structure import Model, Structure, build
from scaledl.run import Run
from scaledl.runtime.signature import Inputs, Outputs
from scaledl.tasks.model import task_around
from scaledl.train import FitResult, fit

MLP = {"family": "mlp", "hidden": [32]}


def conv_steps(config: Any, inputs: Inputs, outputs: Outputs) -> nn.Module:
    """[B, C, T] -> [B, K, T]."""
    return nn.Sequential(nn.Conv1d(inputs.shape[0], 16, 3, padding=1), nn.ReLU(), nn.Conv1d(16, outputs.count, 1))


def conv_pixels(config: Any, inputs: Inputs, outputs: Outputs) -> nn.Module:
    """[B, C, H, W] -> [B, K, H, W]."""
    return nn.Sequential(nn.Conv2d(inputs.shape[0], 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, outputs.count, 1))


def causal_tokens(config: Any, inputs: Inputs, outputs: Outputs) -> nn.Module:
    """Token ids [B, T] -> [B, K, T]; a step sees itself and the one before."""
    return _Tokens(inputs.vocabulary, outputs.count, left=1, right=0)


def two_way_tokens(config: Any, inputs: Inputs, outputs: Outputs) -> nn.Module:
    """Token ids [B, T] -> [B, K, T]; a step sees its neighbours."""
    return _Tokens(inputs.vocabulary, outputs.count, left=1, right=1)


class _Tokens(nn.Module):
    def __init__(self, vocabulary: int, count: int, left: int, right: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 16)
        self.pad = nn.ConstantPad1d((left, right), 0.0)
        self.conv = nn.Conv1d(16, 32, 1 + left + right)
        self.relu = nn.ReLU()
        self.head = nn.Conv1d(32, count, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.relu(self.conv(self.pad(self.embedding(x).transpose(1, 2)))))
        return found


class Bottleneck(nn.Module):
    """[B, *shape] -> [B, *shape], through 4 numbers."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(inputs.size, 4), nn.Linear(4, inputs.size)

    def forward(self, x: Tensor) -> Tensor:
        again: Tensor = self.decoder(self.encoder(x.flatten(1))).reshape(x.shape)
        return again


def bottleneck(config: Any, inputs: Inputs, outputs: Outputs) -> nn.Module:
    return Bottleneck(inputs)


FAMILIES = {fn.__name__: fn for fn in (conv_steps, conv_pixels, causal_tokens, two_way_tokens, bottleneck)}


@pytest.fixture(autouse=True)
def _families(monkeypatch: pytest.MonkeyPatch) -> None:
    """The families above as an importable module."""
    module = types.ModuleType("tiny_families")
    vars(module).update(FAMILIES)
    monkeypatch.setitem(sys.modules, "tiny_families", module)
    torch.set_num_threads(1)


def made_data(inputs: Tensor, labels: Tensor, names: tuple[str, ...], target: Any, **more: Any) -> DataModule:
    """The first 60 % to train with, then 20 % to validate, and the rest as a test split."""
    ids = torch.arange(len(inputs))
    trained, held = len(ids) * 6 // 10, len(ids) * 2 // 10
    cuts = ids.split([trained, held, len(ids) - trained - held])
    splits = [Arrays(inputs[rows].contiguous(), labels[rows].contiguous(), rows) for rows in cuts]
    stats: tuple[Any, Any] = ((), ()) if more.get("kind") == "text" else statistics(splits[0].inputs)
    if target == "numbers":
        known = splits[0].labels.double()
        more = {"target_mean": tuple(known.mean(0).tolist()), "target_std": tuple(known.std(0).tolist()), **more}
    spec = DataSpec("made-up", in_shape_of(inputs), names, *stats, "0" * 64, target=target, **more)
    return DataModule(spec, *splits)


@pytest.fixture(scope="session")
def make_data() -> Callable[..., DataModule]:
    return made_data


def new_model_of(family: str | dict[str, Any], data: DataModule, config: Config) -> Model:
    """A family of this file by its name, or one of ours by its section."""
    from scaledl.config.registry import TASKS
    from scaledl.models.structure import new_model

    outputs = TASKS.resolve(config.task.name).outputs(data.spec, config.task)
    if isinstance(family, dict):
        return new_model(config.model, data.spec.inputs, outputs, 0)
    structure = Structure(f"tiny_families:{family}", {}, data.spec.inputs, outputs)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Model(build(structure, trust=True), structure)


class Trained:
    """What came of a training on made-up data."""

    def __init__(
        self, folder: Path, data: DataModule, task: dict[str, Any], family: Any, changes: dict[str, Any]
    ) -> None:
        plain = {
            "data.batch_size": 32,
            "trainer.epochs": 5,
            "trainer.precision": "fp32",
            "trainer.num_threads": 1,
            "optimizer.lr": 0.02,
            "trainer.channels_last": False,
        }
        model = {"model": family} if isinstance(family, dict) else {}
        self.data = data
        self.config = replace(Config(), {"task": task, **model, **plain, **changes})
        self.run = Run.create(folder, "t", config=self.config)
        self.run.begin()
        self.start = new_model_of(family, data, self.config)
        self.before = self.evaluated(self.start)
        self.result: FitResult = fit(self.config, self.run, data, self.start)
        self.after = self.evaluated(self.result.model)

    def evaluated(self, model: Model, split: Any = "test") -> Evaluation:
        module = model.module.eval()
        with torch.no_grad():
            return evaluate_split(module, self.data, self.config, split)


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Trained]:
    """`train(data, {"name": "regression"}, **changes)`: the task's training, with figures of before and after."""

    def run(data: DataModule, task: dict[str, Any], family: Any = MLP, **changes: Any) -> Trained:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        return Trained(folder, data, task, family, changes)

    return run


@pytest.fixture
def around(tmp_path: Path) -> Callable[..., Any]:
    """`around(module, data, task)`: the task around a module."""

    def make(module: nn.Module, data: DataModule, task: dict[str, Any]) -> Any:
        return task_around(module, replace(Config(), {"task": task}), data.spec)

    return make
