from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import scaledl
from scaledl.config.schema import DataConfig, ExportConfig, MLPConfig, ResNetConfig
from scaledl.data import DataModule, build_data, normalize
from scaledl.errors import ScaledlError, UsageError
from scaledl.export import export_torchscript
from scaledl.models.quantized import calibrating, prepare_ptq
from scaledl.models.structure import Model, new_model
from scaledl.run import sha256_file
from scaledl.runtime.artifact import read_cases, read_spec, sidecar_path

pytestmark = pytest.mark.unit

SOURCE = {"name": "resnet-digits", "id": "42", "sha256": "abc"}


@pytest.fixture(scope="module")
def data() -> DataModule:
    return build_data(DataConfig(), 0)


def small_resnet(data: DataModule) -> Model:
    torch.set_num_threads(1)
    return new_model(ResNetConfig(family="resnet", depth=8, width=4), data.spec.in_shape, 10, 0)


def quantized(model: Model, data: DataModule, engine: str) -> Model:
    prepared = prepare_ptq(model, engine)
    with calibrating(prepared.module), torch.no_grad():
        prepared.module(normalize(data.train.inputs[:128], data.spec))
    return prepared


@pytest.mark.parametrize(("most", "cases"), [(1 << 18, 8), (25, 2), (3, 1)])
def test_large_outputs_make_few_cases(
    most: int, cases: int, data: DataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaledl.export.torchscript.MOST_OUTPUTS", most)
    path = tmp_path / "model.ts"
    export_torchscript(small_resnet(data), data, path, config=ExportConfig(), source=SOURCE)
    assert read_cases(path.read_bytes(), path).outputs.shape == (cases, 10)


def test_the_file_alone_suffices(data: DataModule, tmp_path: Path) -> None:
    path = tmp_path / "model.ts"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        artifact = export_torchscript(small_resnet(data), data, path, config=ExportConfig(), source=SOURCE)

    assert (artifact.path, artifact.size, artifact.int8, artifact.engine) == (path, path.stat().st_size, False, None)
    assert artifact.sha256 == sha256_file(path)
    manifest = read_spec(path.read_bytes(), path).manifest
    assert manifest["labels"] == [str(digit) for digit in range(10)]
    assert manifest["input"] == {"dtype": "float32", "layout": "NCHW", "shape": [1, 8, 8]}
    assert manifest["preprocessing"]["mean"] == list(data.spec.mean)
    assert manifest["preprocessing"]["std"] == list(data.spec.std)
    assert manifest["int8"] is None
    assert manifest["source"] == SOURCE
    assert manifest["versions"]["scaledl"] == scaledl.__version__
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["data"]["fingerprint"] == data.spec.fingerprint

    sidecar = json.loads(sidecar_path(path).read_text())
    assert (sidecar["sha256"], sidecar["size"], sidecar["file"]) == (artifact.sha256, artifact.size, "model.ts")
    assert sidecar["verification"] is None
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.ts", "model.ts.json"]


def test_embedded_cases_are_real_test_inputs_with_the_models_outputs(data: DataModule, tmp_path: Path) -> None:
    model = small_resnet(data)
    path = tmp_path / "model.ts"
    export_torchscript(model, data, path, config=ExportConfig(), source=SOURCE)
    cases = read_cases(path.read_bytes(), path)
    assert len(cases.inputs) == 8
    for image, label in zip(cases.inputs, cases.labels, strict=True):
        rows = (data.test.inputs == image).flatten(1).all(1)
        assert label in data.test.labels[rows]
    expected = model.module.eval()(normalize(cases.inputs, data.spec)).detach()
    assert torch.allclose(cases.outputs, expected, atol=1e-5)


def test_the_model_is_left_as_it_is(data: DataModule, tmp_path: Path) -> None:
    model = small_resnet(data)
    model.module.train()
    before = {key: (value.clone(), value.stride()) for key, value in model.module.state_dict().items()}
    export_torchscript(model, data, tmp_path / "model.ts", config=ExportConfig(), source=SOURCE)
    assert all(module.training for module in model.module.modules())
    for key, value in model.module.state_dict().items():
        assert torch.equal(value, before[key][0])
        assert value.stride() == before[key][1]


@pytest.mark.parametrize(("prepared", "wanted"), [("x86", "x86"), ("x86", "onednn"), ("onednn", "onednn")])
def test_int8_engine(data: DataModule, tmp_path: Path, prepared: str, wanted: str) -> None:
    before = torch.backends.quantized.engine
    config = ExportConfig(engine=wanted)  # type: ignore[arg-type]
    model = quantized(small_resnet(data), data, prepared)
    artifact = export_torchscript(model, data, tmp_path / "model.ts", config=config, source=SOURCE)
    assert (artifact.int8, artifact.engine) == (True, wanted)
    assert read_spec(artifact.path.read_bytes(), artifact.path).engine == wanted
    assert torch.backends.quantized.engine == before


def test_ranges_for_onednn_are_not_put_on_x86(data: DataModule, tmp_path: Path) -> None:
    model = quantized(small_resnet(data), data, "onednn")
    with pytest.raises(UsageError, match=r"export\.engine: got 'x86'.*export\.engine=onednn"):
        export_torchscript(model, data, tmp_path / "model.ts", config=ExportConfig(), source=SOURCE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("in_shape", "classes"), [((1, 8, 8), 7), ((3, 8, 8), 10)])
def test_model_of_other_data(data: DataModule, tmp_path: Path, in_shape: tuple[int, ...], classes: int) -> None:
    model = new_model(MLPConfig(family="mlp", hidden=[4]), in_shape, classes, 0)
    with pytest.raises(UsageError, match="export with the data that it was trained on"):
        export_torchscript(model, data, tmp_path / "model.ts", config=ExportConfig(), source=SOURCE)


def test_weights_that_are_nan(data: DataModule, tmp_path: Path) -> None:
    model = small_resnet(data)
    with torch.no_grad():
        next(model.module.parameters()).fill_(float("nan"))
    with pytest.raises(ScaledlError, match="NaN or infinite"):
        export_torchscript(model, data, tmp_path / "model.ts", config=ExportConfig(), source=SOURCE)


class Unscriptable(nn.Module):
    def forward(self, *args: Tensor, **kwargs: Any) -> Tensor:
        return args[0].flatten(1)[:, :10]


def test_what_cannot_be_scripted_is_not_traced_instead(data: DataModule, tmp_path: Path) -> None:
    model = Model(Unscriptable(), small_resnet(data).structure)
    with pytest.raises(ScaledlError, match=r"resnet model cannot be exported to TorchScript: .*torch\.jit\.script"):
        export_torchscript(model, data, tmp_path / "model.ts", config=ExportConfig(), source=SOURCE)
    assert list(tmp_path.iterdir()) == []
