"""Low-rank adapters: they alone learn, end up in the weights, and a stopped training goes on exactly."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from scaledl.config import Config, replace
from scaledl.config.schema import LoraConfig
from scaledl.data import DataModule, build_data
from scaledl.models.structure import Model, build, load_model, new_model, save_model
from scaledl.run import Run
from scaledl.runtime.signature import Inputs, Outputs
from scaledl.train import fit
from scaledl.train.lora import add_adapters_, merged

pytestmark = pytest.mark.unit

BASE = Config.model_validate(
    {
        "model": {"family": "mlp", "hidden": [16, 12]},
        "transfer": {"lora": {"rank": 2, "alpha": 4.0}},
        "optimizer": {"lr": 0.01},
        "data": {"batch_size": 256},
        "trainer": {"epochs": 2, "precision": "fp32", "num_threads": 1, "checkpoint_every_n_steps": 2},
        "scheduler": {"name": "constant"},
    }
)


@pytest.fixture(scope="module")
def data() -> DataModule:
    return build_data(BASE.data, 0)


@pytest.fixture(autouse=True)
def _ready(cannot: Callable[[str], None]) -> None:
    if find_spec("peft") is None:
        cannot("peft is not installed")
    torch.set_num_threads(1)


def new(config: Config, data: DataModule) -> Model:
    return new_model(config.model, data.spec.in_shape, data.spec.num_classes, config.run.seed)


def train(folder: Any, config: Config, data: DataModule, *callbacks: pl.Callback) -> Model:
    torch.manual_seed(3)  # as in a process of its own; dropout draws from it
    run = Run.open_or_create(folder, "t", "one", kind="train", config=config)
    with run.attempt():
        result = fit(config, run, data, new(config, data), callbacks=callbacks)
        run.finish("complete")
    return result.model


def test_what_is_learned_has_a_low_rank_and_ends_up_in_the_weights(tmp_path: Any, data: DataModule) -> None:
    before, model = new(BASE, data).module.state_dict(), train(tmp_path, BASE, data)
    state = model.module.state_dict()
    assert state.keys() == before.keys() == build(model.structure).state_dict().keys()
    for name in ("hidden.0", "hidden.2"):
        assert torch.equal(state[f"{name}.bias"], before[f"{name}.bias"])
        assert torch.linalg.matrix_rank(state[f"{name}.weight"] - before[f"{name}.weight"], atol=1e-5) == 2
    assert not torch.equal(state["head.weight"], before["head.weight"])
    save_model(model, tmp_path / "model")
    x = data.spec.inputs.example(4)
    with torch.inference_mode():
        assert torch.equal(load_model(tmp_path / "model").module(x), model.module(x))


def test_it_is_what_plain_pytorch_gives_with_two_matrices(tmp_path: Any, data: DataModule) -> None:
    config = replace(BASE, {"transfer.lora.targets": ["hidden.0"], "trainer.epochs": 1})
    model = train(tmp_path, config, data)
    module = new(config, data).module
    with torch.random.fork_rng():
        torch.manual_seed(0)
        a, _ = torch.nn.Linear(64, 2, bias=False).weight, torch.nn.Linear(2, 16, bias=False)
        # as peft begins: A by Kaiming's rule, B zero
        torch.nn.init.kaiming_uniform_(a, a=5**0.5)
    b = torch.zeros(16, 2, requires_grad=True)
    weight, bias = module.hidden[0].weight.detach(), module.hidden[0].bias.detach()
    head = list(module.head.parameters())
    settings = config.optimizer.settings()
    groups = [
        {"params": [a, b, head[0]], "weight_decay": settings["weight_decay"]},
        {"params": [head[1]], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.optimizer.lr, betas=settings["betas"])
    for batch in data.train_loader(256, config.data.augment, 0):
        hidden = F.linear(batch.contiguous().x.flatten(1), weight + 4.0 / 2 * b @ a, bias)
        F.cross_entropy(module.head(module.hidden[1:](hidden)), batch.y).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(model.module.hidden[0].weight, weight + 2 * (b @ a), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.module.head.weight, head[0], atol=1e-5, rtol=1e-4)


class StopAfter(pl.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise KeyError("made up by the test")


def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path: Any, data: DataModule) -> None:
    config = replace(BASE, {"transfer.lora.dropout": 0.2, "trainer.ema_decay": 0.9})
    whole = train(tmp_path / "whole", config, data).module.state_dict()
    with pytest.raises(KeyError, match="made up"):
        train(tmp_path / "stopped", config, data, StopAfter(5))
    state = train(tmp_path / "stopped", config, data).module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.items())


TEXT, IMAGE = Inputs("text", (12,), vocabulary=40), Inputs("image", (1, 16, 16))
BERT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TRANSFORMERS: dict[str, tuple[dict[str, Any], Inputs, Outputs, int]] = {
    "transformer": ({"family": "transformer", "width": 16, "layers": 1, "heads": 2}, TEXT, Outputs(3), 6),
    "gpt": ({"family": "gpt", "width": 16, "layers": 1, "heads": 2}, TEXT, Outputs(40, "steps"), 6),
    "vit": ({"family": "vit", "width": 16, "layers": 1, "heads": 2, "patch_size": 4}, IMAGE, Outputs(3), 6),
    "hf bert": ({"family": "external", "name": "hf:bert", "args": BERT}, TEXT, Outputs(3), 7),
    "hf gpt2": (
        {"family": "external", "name": "hf:gpt2", "args": {"n_embd": 16, "n_layer": 1, "n_head": 2}},
        *(TEXT, Outputs(3), 4),
    ),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_adapters_are_nothing_at_first_and_part_of_the_weights_at_last(
    name: str, cannot: Callable[[str], None]
) -> None:
    section, inputs, outputs, count = TRANSFORMERS[name]
    if name.startswith("hf") and find_spec("transformers") is None:
        cannot("transformers is not installed")
    config = Config.model_validate({"model": section}).model
    model = new_model(config, inputs, outputs, seed=0)
    module, x = model.module.eval(), inputs.example(3)
    with torch.no_grad():
        before = module(x)
        tuner = add_adapters_(module, model.structure, LoraConfig(rank=2), seed=1).eval()
        assert torch.equal(module(x), before)
        adapters = {n: p for n, p in module.named_parameters() if ".lora_" in n}
        assert len(adapters) == 2 * count, sorted(adapters)
        for adapter in adapters.values():
            torch.nn.init.normal_(adapter, std=0.3)
        learned = module(x)
        assert not torch.allclose(learned, before, atol=1e-3)
        plain = merged(tuner)
        torch.testing.assert_close(plain(x), learned, atol=1e-4, rtol=1e-4)
    assert plain.state_dict().keys() == build(model.structure).state_dict().keys()
