"""Dropout of values, channels and branches: where it is, what it does in training, and that it is gone afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from scaledl.config.schema import CNNConfig, MLPConfig, ResNetConfig, UNetConfig
from scaledl.errors import UsageError
from scaledl.models import quantized
from scaledl.models.dropout import DropPath, dropout_layers, path_rates
from scaledl.models.structure import Model, new_model
from scaledl.runtime.jit import script
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.unit

IMAGES = Inputs("image", (1, 8, 8))
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def kinds(module: nn.Module) -> list[type[nn.Module]]:
    return [type(layer) for layer in module.modules() if isinstance(layer, DROPOUTS)]


CNN: dict[str, Any] = {"family": "cnn", "channels": [4, 8], "hidden": [16]}
PLACES = {
    "mlp": (MLPConfig(family="mlp", hidden=[8, 8], dropout=0.5), [nn.Dropout] * 2),
    "mlp alpha": (MLPConfig(family="mlp", hidden=[8], dropout=0.5, dropout_kind="alpha"), [nn.AlphaDropout]),
    "cnn": (CNNConfig(**CNN, dropout=0.5), [nn.Dropout] * 2),
    "cnn spatial": (CNNConfig(**CNN, dropout=0.5, dropout_kind="spatial"), [nn.Dropout2d] * 2),
    "resnet": (ResNetConfig(depth=8, width=4, dropout=0.5), [nn.Dropout]),
    "resnet spatial": (ResNetConfig(depth=8, width=4, dropout=0.5, dropout_kind="spatial"), [nn.Dropout2d] * 3),
    "none": (ResNetConfig(depth=8, width=4), []),
}


@pytest.mark.parametrize("case", PLACES)
def test_is_where_it_belongs_and_nothing_in_eval(case: str) -> None:
    config, expected = PLACES[case]
    module = new_model(config, IMAGES, Outputs(3), seed=0).module
    assert kinds(module) == expected
    x = IMAGES.example(4)
    assert torch.equal(module.eval()(x), module(x))
    plain = new_model(config.model_copy(update={"dropout": 0.0}), IMAGES, Outputs(3), seed=0).module.eval()
    torch.testing.assert_close(module(x), plain(x))


def test_series_lose_whole_channels() -> None:
    config = CNNConfig(**CNN, dropout=0.5, dropout_kind="spatial")
    module = new_model(config, Inputs("series", (2, 16)), Outputs(3), seed=0).module
    assert kinds(module) == [nn.Dropout1d] * 2


def test_maps_of_a_unet_lose_values_or_channels() -> None:
    for kind, layer in (("standard", nn.Dropout), ("spatial", nn.Dropout2d), ("alpha", nn.AlphaDropout)):
        config = UNetConfig(family="unet", width=4, depth=1, dropout=0.2, dropout_kind=kind)
        assert set(kinds(new_model(config, IMAGES, Outputs(2, "pixels"), seed=0).module)) == {layer}


def test_rows_have_no_channels_to_lose() -> None:
    config = MLPConfig(family="mlp", dropout=0.1, dropout_kind="spatial")
    with pytest.raises(UsageError, match=r"model\.dropout_kind: got 'spatial', .*allowed: standard, alpha"):
        new_model(config, IMAGES, Outputs(3), seed=0)
    assert dropout_layers(config) == []


def test_alpha_keeps_mean_and_variance_of_selu() -> None:
    x = nn.functional.selu(torch.randn(200_000))
    dropped = nn.AlphaDropout(0.2)(x)
    assert abs(float(dropped.mean() - x.mean())) < 0.01
    assert float(dropped.var()) == pytest.approx(float(x.var()), rel=0.02)


def test_drop_path_sets_whole_samples_to_zero_and_keeps_the_expectation() -> None:
    path, x = DropPath(0.25), torch.ones(20_000, 3, 2)
    dropped = path(x)
    torch.testing.assert_close(dropped.unique(), torch.tensor([0.0, 1 / 0.75]))
    assert torch.equal(dropped.amin((1, 2)), dropped.amax((1, 2)))
    assert float(dropped.mean()) == pytest.approx(1, abs=0.02)


def test_drop_path_is_nothing_in_eval_and_scripts() -> None:
    path, x = DropPath(0.5), torch.randn(4, 3)
    assert path.eval()(x) is x
    scripted = script(path.train())
    torch.manual_seed(3)
    expected = path(x)
    torch.manual_seed(3)
    assert torch.equal(scripted(x), expected)


def test_rates_grow_from_nothing_to_the_last_block() -> None:
    assert path_rates(0.2, 1) == [0.0]
    module = new_model(ResNetConfig(depth=14, width=4, drop_path=0.5), IMAGES, Outputs(3), seed=0).module
    rates = [layer.rate for layer in module.modules() if isinstance(layer, DropPath)]
    assert rates == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_a_residual_network_of_skipped_blocks_is_that_of_its_branches_in_expectation() -> None:
    config = ResNetConfig(depth=8, width=4, drop_path=0.4)
    module = new_model(config, IMAGES, Outputs(3), seed=0).module.eval()
    block, x = module.stages[2][0], torch.randn(1, 8, 4, 4).expand(4000, -1, -1, -1)
    branches = []
    block.path.register_forward_hook(lambda layer, inputs, output: branches.append(output))
    block(x)
    expected = branches.pop()[0]
    block.path.train()
    block(x)
    torch.testing.assert_close(branches.pop().mean(0), expected, atol=0.05, rtol=0.05)


QUANTIZED = {name: case for name, case in PLACES.items() if case[1]} | {
    "path": (ResNetConfig(depth=14, width=4, drop_path=0.4), [])
}


@pytest.mark.parametrize("case", QUANTIZED)
def test_drops_while_it_is_trained_for_int8_and_is_gone_from_the_int8_module(case: str) -> None:
    float_model = new_model(QUANTIZED[case][0], IMAGES, Outputs(3), seed=0)
    prepared = quantized.prepare_qat(Model(float_model.module.eval(), float_model.structure), "x86")
    x = IMAGES.example(64)
    prepared.module.train()
    with torch.no_grad():
        first, second = prepared.module(x), prepared.module(x)
    assert float((first - second).abs().mean() / first.abs().mean()) > 0.02
    prepared.module.eval()
    with quantized.calibrating(prepared.module), torch.no_grad():
        prepared.module(x)
    assert torch.equal(prepared.module(x), prepared.module(x))
    int8 = quantized.convert(prepared)
    assert sum(node.target == "dequantize" for node in int8.graph.nodes) == 1
    assert not kinds(int8)
    assert not any(isinstance(layer, DropPath) for layer in int8.modules())
