"""The adapter around FX quantization."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.ao.nn.intrinsic import qat as nniqat
from torch.ao.nn.quantized import Conv2d as QuantizedConv2d
from torch.ao.nn.quantized import Linear as QuantizedLinear

from scaledl.compress.prune import prune_model
from scaledl.config.schema import AutoencoderConfig, MLPConfig, PruneConfig, ResNetConfig, VAEConfig
from scaledl.errors import ScaledlError, UsageError
from scaledl.models import quantized
from scaledl.models.structure import Model, build, load_model, new_model, save_model
from scaledl.models.vae import kl_divergence, training_outputs_of
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.unit

RESNET = ResNetConfig(family="resnet", depth=8, width=8)
MLP = MLPConfig(family="mlp", hidden=[16])
PREPARE = {"qat": quantized.prepare_qat, "ptq": quantized.prepare_ptq}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def float_model(config: Any = RESNET) -> Model:
    model = new_model(config, (1, 8, 8), 10, seed=0)
    return Model(model.module.eval(), model.structure)


def images(count: int = 32) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(5))


def calibrated(mode: str, config: Any = RESNET, engine: str = "x86") -> Model:
    model = PREPARE[mode](float_model(config), engine)
    with quantized.calibrating(model.module), torch.no_grad():
        model.module(images())
    return model


def test_torch_still_has_what_the_adapter_needs() -> None:
    """Fails loudly when a torch release takes FX quantization away: then `models/quantized.py` needs another engine."""
    from torch.ao import quantization
    from torch.ao.quantization import quantize_fx

    for module, names in {
        quantize_fx: ("prepare_qat_fx", "convert_fx"),
        quantization: ("get_default_qat_qconfig_mapping", "FakeQuantize", "HistogramObserver", "QConfig"),
        nniqat: ("freeze_bn_stats", "ConvBn2d", "ConvBnReLU2d"),
    }.items():
        missing = [name for name in names if not hasattr(module, name)]
        assert not missing, f"torch {torch.__version__} dropped {module.__name__}.{missing}"
    assert {"x86", "onednn"} <= set(torch.backends.quantized.supported_engines)


@pytest.mark.parametrize("mode", PREPARE)
def test_preparing_folds_batchnorm_and_is_recorded(mode: str) -> None:
    original = float_model()
    prepared = PREPARE[mode](original, "x86")
    assert prepared.structure.history == ({"op": "quantize", "mode": mode, "engine": "x86"},)
    assert quantized.is_quantized(prepared.structure)
    assert not quantized.is_quantized(original.structure)
    assert quantized.without_quantization(prepared.structure) == original.structure
    modules = list(prepared.module.modules())
    assert any(isinstance(m, nniqat.ConvBnReLU2d) for m in modules)
    assert not any(type(m) is nn.Conv2d for m in modules)
    assert all(p.dtype == torch.float32 for p in prepared.module.parameters())
    assert any(isinstance(m, nn.ReLU) for m in original.module.modules()), "the original was changed"


@pytest.mark.parametrize("config", [RESNET, MLP], ids=["resnet", "mlp"])
@pytest.mark.parametrize("mode", PREPARE)
def test_a_prepared_model_comes_back_bit_for_bit(mode: str, config: Any, tmp_path: Path) -> None:
    model = calibrated(mode, config)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    x = images(7)
    assert torch.equal(loaded.module(x), model.module(x))
    assert torch.equal(quantized.convert(loaded)(x), quantized.convert(model)(x))


def test_a_pruned_model_can_be_quantized_and_reloaded(tmp_path: Path) -> None:
    small = prune_model(float_model(), PruneConfig(round_to=2), iter(()))
    model = quantized.prepare_qat(small, "x86")
    with quantized.calibrating(model.module):
        model.module(images())
    save_model(model, tmp_path)
    assert [c["op"] for c in model.structure.history] == ["resize", "quantize"]
    assert torch.equal(load_model(tmp_path).module(images(3)), model.module(images(3)))


def test_a_prepared_model_that_saw_nothing_can_be_saved_but_not_converted(tmp_path: Path) -> None:
    model = quantized.prepare_qat(float_model(), "x86")
    save_model(model, tmp_path)
    with pytest.raises(ScaledlError, match="never observed"):
        quantized.convert(load_model(tmp_path))


@pytest.mark.parametrize("config", [RESNET, MLP], ids=["resnet", "mlp"])
@pytest.mark.parametrize("mode", PREPARE)
def test_converted_layers_are_truly_int8(mode: str, config: Any) -> None:
    converted = quantized.convert(calibrated(mode, config))
    float_layers = [n for n, m in converted.named_modules() if type(m) in (nn.Conv2d, nn.Linear, nn.BatchNorm2d)]
    assert float_layers == []
    layers = [m for m in converted.modules() if isinstance(m, QuantizedConv2d | QuantizedLinear)]
    assert len(layers) == sum(type(m) in (nn.Conv2d, nn.Linear) for m in float_model(config).module.modules())
    for layer in layers:
        weight = layer.weight()
        assert weight.dtype == torch.qint8
        assert weight.qscheme() == torch.per_channel_affine
        assert not weight.q_per_channel_zero_points().any(), "weights are symmetric"


@pytest.mark.parametrize("engine", ["x86", "onednn"])
def test_converting_leaves_engine_and_model_alone(engine: str) -> None:
    before = torch.backends.quantized.engine
    model = calibrated("qat", engine=engine)
    expected = model.module(images(4))
    quantized.convert(model)
    assert torch.backends.quantized.engine == before
    assert torch.equal(model.module(images(4)), expected)


def test_x86_keeps_a_bit_free_and_onednn_does_not() -> None:
    for engine, largest in (("x86", 127), ("onednn", 255)):
        observers = [
            m.activation_post_process
            for m in calibrated("ptq", engine=engine).module.modules()
            if type(getattr(m, "activation_post_process", None)) is torch.ao.quantization.HistogramObserver
        ]
        assert {observer.quant_max for observer in observers} == {largest}


def test_frozen_observers_ignore_data_and_unfrozen_ones_follow_even_in_eval_mode() -> None:
    model = calibrated("qat").module.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model(images() * 50)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    quantized.observe_(model)
    model(images() * 50)
    assert not all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_frozen_batchnorm_stays_frozen_through_train() -> None:
    model = calibrated("qat").module.train()
    statistics = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    quantized.freeze_batchnorm_(model)
    model.train()(images() + 3)
    assert statistics
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in statistics.items())


def test_a_quantized_model_is_not_quantized_again() -> None:
    with pytest.raises(UsageError, match="quantized already"):
        quantized.prepare_ptq(calibrated("qat"), "x86")


def test_a_float_model_is_not_converted() -> None:
    with pytest.raises(ScaledlError, match="run the stage 'qat' or 'ptq'"):
        quantized.convert(float_model())


def test_an_engine_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match=r"export.engine: got 'tpu'; allowed here: onednn, x86"):
        quantized.prepare_qat(float_model(), "tpu")


def test_a_model_that_cannot_be_traced_is_named() -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    model = Model(Branching(), float_model().structure)
    with pytest.raises(UsageError, match="Branching cannot be quantized"):
        quantized.prepare_qat(model, "x86")


def test_no_library_warning_reaches_the_user(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = calibrated("ptq")
        save_model(model, tmp_path)
        quantized.convert(load_model(tmp_path))


def test_a_fake_quantized_vae_still_draws_to_be_trained_and_knows_its_divergence() -> None:
    inputs, outputs = Inputs("image", (1, 8, 8)), Outputs(1, "input")
    sizes: dict[str, Any] = {"latent": 3, "channels": [8, 16], "norm": "none"}
    model = new_model(VAEConfig(family="vae", **sizes), inputs, outputs, 0)
    prepared = quantized.prepare_qat(model, "x86")
    again = build(prepared.structure)  # as a checkpoint or a saved model has it
    again.load_state_dict(prepared.module.state_dict())
    x = images(64)
    expected = kl_divergence(*model.module.distribution(x)).detach()
    for module in (copy.deepcopy(prepared.module), again):
        outputs_fn = training_outputs_of(module.train())
        assert outputs_fn is not None
        first, second = outputs_fn(x), outputs_fn(x)
        assert not torch.equal(first["output"], second["output"])
        assert float((first["kl"].detach() - expected).abs().mean() / expected.mean()) < 0.05
        first["kl"].mean().backward()
        assert module.get_parameter("latent.weight").grad.abs().sum() > 0
        quantized.freeze_observers_(module.eval())
        assert torch.equal(module(x), module(x))  # by the means, and nothing of the draws is left
    plain = new_model(AutoencoderConfig(family="autoencoder", **sizes), inputs, outputs, 0)
    assert training_outputs_of(quantized.prepare_qat(plain, "x86").module) is None
