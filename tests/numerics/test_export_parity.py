"""Exported files against the modules they are made from, in this process and in a clean one."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from scaledl.config.schema import DataConfig, ExportConfig, MLPConfig, ResNetConfig
from scaledl.data import DataModule, DataSpec, build_data, normalize
from scaledl.export import checks, export_torchscript
from scaledl.export.clean_process import observe
from scaledl.models.quantized import calibrating, convert, prepare_ptq
from scaledl.models.structure import Model, new_model
from scaledl.runtime import load
from scaledl.runtime.artifact import InputSpec

pytestmark = pytest.mark.numerics

CONFIG = ExportConfig(latency_batch_sizes=[1])
CONFIGS = {
    "mlp": MLPConfig(family="mlp", hidden=[32, 16]),
    "resnet8": ResNetConfig(family="resnet", depth=8, width=8),
    "resnet18": ResNetConfig(family="resnet", depth=18, width=8),
    "resnet50": ResNetConfig(family="resnet", depth=50, width=4),
}


@pytest.fixture(scope="module")
def data() -> DataModule:
    return build_data(DataConfig(), 0)


def with_random_statistics(model: Model) -> Model:
    """Fresh BatchNorm would hide an error in folding it."""
    generator = torch.Generator().manual_seed(1)
    for module in model.module.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5, generator=generator)  # type: ignore[union-attr]
    model.module.eval()
    return model


def build(name: str, data: DataModule) -> Model:
    torch.set_num_threads(1)
    return with_random_statistics(new_model(CONFIGS[name], data.spec.in_shape, 10, 0))


def quantize(model: Model, data: DataModule) -> Model:
    prepared = prepare_ptq(model, "x86")
    with calibrating(prepared.module), torch.no_grad():
        prepared.module(normalize(data.train.inputs[:512], data.spec))
    return prepared


def outputs(module: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([module(part) for part in x.split(256)])


@pytest.mark.parametrize("name", CONFIGS)
def test_float_file_against_eager(name: str, data: DataModule, tmp_path: Path) -> None:
    model = build(name, data)
    path = export_torchscript(model, data, tmp_path / "m.ts", config=CONFIG, source={}).path
    x = normalize(data.test.inputs, data.spec)
    expected = outputs(copy.deepcopy(model.module), x)
    assert (load(path).forward(x) - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("name", ["mlp", "resnet8"])
def test_int8_file_against_converted_and_float(name: str, data: DataModule, tmp_path: Path) -> None:
    model = build(name, data)
    prepared = quantize(model, data)
    path = export_torchscript(prepared, data, tmp_path / "m.ts", config=CONFIG, source={}).path
    x = normalize(data.test.inputs, data.spec)
    from_file = load(path).forward(x)
    assert torch.equal(from_file, outputs(convert(prepared), x))
    assert checks.sqnr_db(from_file, outputs(model.module, x)) >= 20
    assert checks.sqnr_db(from_file, outputs(prepared.module.eval(), x)) >= 20


@pytest.mark.parametrize("int8", [False, True])
def test_clean_process_gives_the_same_outputs(int8: bool, data: DataModule, tmp_path: Path) -> None:
    model = build("resnet8", data)
    source = quantize(model, data) if int8 else model
    artifact = export_torchscript(source, data, tmp_path / "m.ts", config=CONFIG, source={})
    observed = observe(artifact.path, artifact.sha256, data.test.inputs, CONFIG, timeout=300)
    here = torch.cat([load(artifact.path).predict(part) for part in data.test.inputs.split(256)])
    assert torch.equal(observed.outputs["test"], here)


@given(seed=st.integers(0, 1000), channels=st.integers(1, 4), size=st.integers(1, 12), count=st.integers(1, 5))
def test_preprocessing_is_the_one_of_training(seed: int, channels: int, size: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, size, size + 1, channels), dtype=torch.uint8, generator=generator)
    mean, std = (tuple((torch.rand(channels, generator=generator) + 0.1).tolist()) for _ in range(2))
    data_spec = DataSpec("x", (channels, size, size + 1), ("a", "b"), mean, std, "f")
    ours = InputSpec(data_spec.in_shape, mean, std).normalize(images)
    expected = normalize(images, data_spec)
    assert torch.equal(ours, expected)
    assert ours.stride() == expected.stride()
