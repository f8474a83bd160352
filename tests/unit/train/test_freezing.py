"""Frozen parameters, their thaw, and learning rates by layer: against plain PyTorch, and exact after a stop."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn

from scaledl.config import Config, ConfigError, load_config, replace
from scaledl.data import DataModule, build_data
from scaledl.errors import UsageError
from scaledl.models.structure import Model, new_model
from scaledl.run import Run
from scaledl.train import fit
from scaledl.train.freezing import NEVER, plan_transfer
from scaledl.train.start import find_start

pytestmark = pytest.mark.unit

BASE = Config.model_validate(
    {
        "model": {"family": "resnet", "depth": 8, "width": 4},
        "data": {"batch_size": 256},
        "trainer": {"epochs": 3, "precision": "fp32", "num_threads": 1},
        "scheduler": {"name": "constant"},
    }
)
MLP = {"model": {"family": "mlp", "hidden": [16, 12]}}


@pytest.fixture(scope="module")
def data() -> DataModule:
    return build_data(BASE.data, 0)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def new(config: Config, data: DataModule) -> Model:
    return new_model(config.model, data.spec.in_shape, data.spec.num_classes, config.run.seed)


def train(folder: Any, config: Config, data: DataModule, *callbacks: pl.Callback) -> dict[str, torch.Tensor]:
    run = Run.open_or_create(folder, "t", "one", kind="train", config=config)
    with run.attempt():
        result = fit(config, run, data, new(config, data), callbacks=callbacks)
        run.finish("complete")
    assert all(parameter.requires_grad for parameter in result.model.module.parameters())
    return result.model.module.state_dict()


def changed(state: dict[str, torch.Tensor], before: dict[str, torch.Tensor]) -> set[str]:
    return {name.rpartition(".")[0] for name, value in state.items() if not torch.equal(value, before[name])}


def plan_of(config: Config, data: DataModule) -> Any:
    model = new(config, data)
    return plan_transfer(model.module, model.structure, config.transfer)


def with_transfer(**keys: Any) -> Config:
    return Config.model_validate({**BASE.model_dump(), "transfer": keys})


def test_only_what_is_not_frozen_learns_and_statistics_stay(tmp_path: Any, data: DataModule) -> None:
    config = with_transfer(freeze=["all_but_head"])
    before = new(config, data).module.state_dict()
    assert changed(train(tmp_path, config, data), before) == {"head"}


def test_frozen_batchnorm_follows_the_data_where_asked(tmp_path: Any, data: DataModule) -> None:
    config = with_transfer(freeze=["all_but_head"], frozen_batchnorm="train")
    before = new(config, data).module.state_dict()
    state = train(tmp_path, config, data)
    assert not torch.equal(state["stem.1.running_mean"], before["stem.1.running_mean"])
    assert torch.equal(state["stem.1.weight"], before["stem.1.weight"])


class Seen(pl.Callback):
    """What has a gradient, and which BatchNorm is in training, in each epoch."""

    def __init__(self) -> None:
        self.epochs: list[tuple[set[str], set[str]]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            named = pl_module.model.named_parameters()
            learning = {layer(name) for name, parameter in named if parameter.grad is not None}
            parts = pl_module.model.named_modules()
            following = {layer(n) for n, part in parts if isinstance(part, nn.BatchNorm2d) and part.training}
            self.epochs.append((learning, following))


def layer(name: str) -> str:
    return ".".join(name.split(".")[:2]) if name.startswith("stages") else name.split(".")[0]


def test_layers_thaw_one_by_one_from_the_head_on(tmp_path: Any, data: DataModule) -> None:
    config = with_transfer(freeze=["all_but_head"], unfreeze_every_n_epochs=1)
    seen = Seen()
    train(tmp_path, config, data, seen)
    assert seen.epochs == [
        ({"head"}, set()),
        ({"head", "stages.2"}, {"stages.2"}),
        ({"head", "stages.2", "stages.1"}, {"stages.2", "stages.1"}),
    ]


def test_named_patterns_thaw_in_their_epochs(data: DataModule) -> None:
    config = with_transfer(freeze=["s*"], unfreeze={"2": ["stages.2.*"], "1": ["*.bn?.*", "stages.2.0.conv1.weight"]})
    begins = plan_of(config, data).begins
    assert begins["head.weight"] == 0
    assert begins["stages.0.0.bn1.weight"] == begins["stages.2.0.conv1.weight"] == 1
    assert begins["stages.2.0.conv2.weight"] == 2
    assert begins["stem.0.weight"] == begins["stages.0.0.conv1.weight"] == NEVER


def test_frozen_training_is_what_plain_pytorch_does(tmp_path: Any, data: DataModule) -> None:
    """The optimizer over the parameters that learn, from the epoch in which they do."""
    thaw = {"freeze": ["hidden.*"], "unfreeze": {"1": ["hidden.2.*"]}}
    config = Config.model_validate({**BASE.model_dump(), **MLP, "transfer": thaw})
    state = train(tmp_path, config, data)
    module = new(config, data).module.train()
    settings = config.optimizer.settings()
    groups = [
        {"params": [p for p in module.parameters() if p.ndim > 1], "weight_decay": settings["weight_decay"]},
        {"params": [p for p in module.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.optimizer.lr, betas=settings["betas"])
    loader = data.train_loader(256, config.data.augment, 0)
    for epoch in range(3):
        loader.set_epoch(epoch)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name.startswith("head") or (name.startswith("hidden.2") and epoch >= 1))
        for batch in loader:
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(module(batch.contiguous().x), batch.y).backward()
            optimizer.step()
    for name, value in module.state_dict().items():
        torch.testing.assert_close(state[name], value, atol=1e-6, rtol=1e-5)


def test_each_layer_has_its_share_of_the_learning_rate(tmp_path: Any, data: DataModule) -> None:
    """One step of SGD without momentum: a third of the rate moves a layer a third as far."""
    keys = {
        "optimizer": {"name": "sgd", "momentum": 0.0, "lr": 0.3, "weight_decay": 0.0},
        "transfer": {"lr_decay": 0.5},
    }
    config = replace(Config.model_validate({**BASE.model_dump(), **MLP, **keys}), {"trainer.max_steps": 1})
    before = new(config, data).module.state_dict()
    halved = train(tmp_path / "a", config, data)
    whole = train(tmp_path / "b", replace(config, {"transfer.lr_decay": 1.0}), data)
    for name, share in (("head.weight", 1.0), ("hidden.2.weight", 0.5), ("hidden.0.weight", 0.25)):
        torch.testing.assert_close(halved[name] - before[name], share * (whole[name] - before[name]))


class StopAfter(pl.Callback):
    """As if the process died: an exception after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise KeyError("made up by the test")


@pytest.mark.parametrize("step", [7, 13])
def test_a_stopped_training_goes_on_to_the_same_bits(step: int, tmp_path: Any, data: DataModule) -> None:
    config = with_transfer(freeze=["all_but_head"], unfreeze_every_n_epochs=1, lr_decay=0.8)
    config = replace(config, {"trainer.checkpoint_every_n_steps": 2, "trainer.ema_decay": 0.9})
    whole = train(tmp_path / "whole", config, data)
    with pytest.raises(KeyError, match="made up"):
        train(tmp_path / "stopped", config, data, StopAfter(step))
    state = train(tmp_path / "stopped", config, data)
    assert all(torch.equal(value, state[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"freeze": ["stag.*"]},
            r"got 'stag.\*', which matches no parameter; there are stem.0.weight",
        ),
        ({"freeze": ["*"]}, "transfer.freeze: freezes every parameter"),
        ({"freeze": ["stem.*"], "unfreeze": {"1": ["nose"]}}, "transfer.unfreeze.1: got 'nose'"),
        (
            {"lora": {"rank": 2, "targets": ["nose"]}},
            "targets: got 'nose', which matches no linear layer",
        ),
    ],
)
def test_what_cannot_be_frozen_is_refused_before_a_run_is_made(
    keys: Any, message: str, data: DataModule, tmp_path: Any
) -> None:
    with pytest.raises(UsageError, match=message):
        find_start(with_transfer(**keys), data.spec)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["transfer.unfreeze={1: ['*']}"], "transfer.unfreeze "),
        (["transfer.unfreeze_every_n_epochs=2"], "transfer.unfreeze_every_n_epochs "),
        (["transfer.freeze=['*']", "transfer.lora.rank=4"], "transfer.freeze "),
        (["transfer.lora.rank=4", "trainer.strategy=deepspeed"], "transfer.lora.rank "),
        (["transfer.unfreeze={one: ['*']}"], "transfer.unfreeze .*numbers of epochs"),
    ],
)
def test_keys_that_cannot_stand_together(overrides: list[str], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        load_config(None, overrides)
