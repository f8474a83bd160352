from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scaledl.config.schema import DataConfig, ExportConfig, ResNetConfig
from scaledl.data import DataModule, build_data, normalize
from scaledl.errors import UsageError
from scaledl.export import export_torchscript
from scaledl.models.quantized import calibrating, prepare_ptq
from scaledl.models.structure import Model, new_model
from scaledl.runtime import Predictor, load

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def data() -> DataModule:
    return build_data(DataConfig(), 0)


@pytest.fixture(scope="module")
def model(data: DataModule) -> Model:
    torch.set_num_threads(1)
    return new_model(ResNetConfig(family="resnet", depth=8, width=4), data.spec.in_shape, 10, 0)


@pytest.fixture(scope="module")
def float_file(model: Model, data: DataModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("float") / "model.ts"
    export_torchscript(model, data, path, config=ExportConfig(), source={"name": "small"})
    return path


@pytest.fixture(scope="module")
def int8_file(model: Model, data: DataModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    prepared = prepare_ptq(model, "x86")
    with calibrating(prepared.module), torch.no_grad():
        prepared.module(normalize(data.train.inputs[:256], data.spec))
    path = tmp_path_factory.mktemp("int8") / "model.ts"
    export_torchscript(prepared, data, path, config=ExportConfig(), source={})
    return path


@pytest.fixture(scope="module")
def predictor(float_file: Path) -> Predictor:
    return load(float_file)


def test_pixels_are_normalised_as_in_training(predictor: Predictor, model: Model, data: DataModule) -> None:
    images = data.test.inputs[:5]
    x = normalize(images, data.spec)
    expected = model.module.eval()(x).detach()
    assert torch.allclose(predictor.predict(images), expected, atol=1e-5)
    assert torch.equal(predictor.predict(images), predictor.predict(x))
    assert torch.equal(predictor.predict(images.numpy()), predictor.predict(images))
    assert torch.equal(predictor.predict(x.double()), predictor.predict(x))


def test_what_the_file_says_about_itself(predictor: Predictor, data: DataModule) -> None:
    assert predictor.labels == data.spec.labels
    assert predictor.spec.shape == (1, 8, 8)
    assert (predictor.spec.mean, predictor.spec.std) == (data.spec.mean, data.spec.std)
    assert predictor.engine is None
    assert predictor.manifest["source"] == {"name": "small"}


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 1, 8, 8, dtype=torch.uint8),  # pixels in the order of float inputs
        torch.zeros(2, 8, 8, 1),
        torch.zeros(8, 8, 1, dtype=torch.uint8),
        torch.zeros(2, 8, 9, 1, dtype=torch.uint8),
        torch.zeros(2, 1, 8, 8, dtype=torch.int64),
        np.zeros((2, 1, 8, 8), dtype=bool),
    ],
)
def test_another_shape_or_type(predictor: Predictor, images: Any) -> None:
    with pytest.raises(UsageError, match=r"wanted uint8 \[N, 8, 8, 1\] \(pixels\) or float \[N, 1, 8, 8\]"):
        predictor.predict(images)


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (torch.zeros(0, 8, 8, 1, dtype=torch.uint8), "at least one"),
        (torch.full((1, 1, 8, 8), float("nan")), "NaN or infinite"),
        (torch.full((1, 1, 8, 8), float("inf")), "NaN or infinite"),
    ],
)
def test_no_or_unusable_values(predictor: Predictor, images: torch.Tensor, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        predictor.predict(images)


def test_int8_sizes_with_and_without_a_copy_agree(int8_file: Path, data: DataModule) -> None:
    images = data.test.inputs[:6]
    with_copies, without = load(int8_file, batch_sizes=(1, 6)), load(int8_file, batch_sizes=())
    assert with_copies.engine == "x86"
    for size in (6, 1, 3, 1, 6):
        assert torch.equal(with_copies.predict(images[:size]), without.predict(images[:size]))


def test_the_engine_in_use_is_left_as_it_was(int8_file: Path) -> None:
    before = torch.backends.quantized.engine
    other = next(name for name in torch.backends.quantized.supported_engines if name not in (before, "none", "x86"))
    torch.backends.quantized.engine = other
    try:
        load(int8_file)
        assert torch.backends.quantized.engine == other
    finally:
        torch.backends.quantized.engine = before


def test_no_gradients(predictor: Predictor, data: DataModule) -> None:
    assert not predictor.predict(data.test.inputs[:1]).requires_grad
