"""Models of other libraries through int8 and export: what is converted, and that the file computes the same."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scaledl.config.schema import DataConfig, ExportConfig, ExternalConfig
from scaledl.data import DataModule, build_data
from scaledl.errors import UsageError
from scaledl.export import export_and_verify, export_torchscript
from scaledl.export.checks import sqnr_db
from scaledl.models.quantized import calibrating, convert, prepare_ptq, prepare_qat
from scaledl.models.structure import Model, load_model, new_model, save_model
from scaledl.runtime import jit
from scaledl.runtime.artifact import read_spec
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.numerics

SOURCE = {"name": "external", "id": "1", "sha256": "abc"}
CONFIG = ExportConfig(latency_batch_sizes=[1])
SWIN = {"img_size": 32, "window_size": 4, "patch_size": 4, "depths": [1, 2], "embed_dim": 24, "num_heads": [1, 2]}
VIT = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 64, "num_heads": 2}


@pytest.fixture(autouse=True)
def _ready(cannot: Callable[[str], None]) -> None:
    for module in ("timm", "torchvision", "transformers"):
        if find_spec(module) is None:
            cannot(f"{module} is not installed")
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data() -> DataModule:
    return build_data(DataConfig(), 0)


def make(name: str, args: dict[str, Any], inputs: Inputs) -> Model:
    model = new_model(ExternalConfig(family="external", name=name, args=args), inputs, Outputs(10), seed=1)
    generator = torch.Generator().manual_seed(2)
    for part in model.module.modules():  # as trained: residual branches do not begin as nothing
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5, generator=generator)
            part.momentum = 0.8
    for seed in range(3):
        model.module.train()(inputs.example(64, seed))
    return Model(model.module.eval(), model.structure)


@pytest.mark.parametrize(
    ("name", "args", "least_db"),
    [
        ("timm:mobilenetv3_small_050", {}, None),
        ("timm:vit_tiny_patch16_224", VIT, 20),
        ("timm:swin_tiny_patch4_window7_224", SWIN, 10),
    ],
    ids=["mobilenet", "vit", "swin"],
)
def test_int8_converts_every_layer_and_comes_back_bit_for_bit(
    name: str, args: dict[str, Any], least_db: float | None, tmp_path: Path
) -> None:
    """Random convolutions give noise, of which int8 keeps little; torch's own recipe gives no more (1.1 dB)."""
    inputs = Inputs("image", (3, 32, 32))
    model = make(name, args, inputs)
    prepared = prepare_ptq(model, "x86")
    with calibrating(prepared.module), torch.no_grad():
        prepared.module(inputs.example(32))
    save_model(prepared, tmp_path)
    loaded, x = load_model(tmp_path), inputs.example(16, seed=1)
    with torch.inference_mode():
        int8 = convert(loaded)
        outputs = int8(x)
        assert torch.equal(loaded.module(x), prepared.module(x))
        assert torch.equal(outputs, convert(prepared)(x))
        assert least_db is None or sqnr_db(outputs, model.module(x)) > least_db
        alone = torch.cat([int8(one) for one in x.split(1)])  # statistics are not those of a batch
        assert sqnr_db(alone, outputs) > 40
        assert torch.equal(int8(x), outputs)  # what drops branches in training is off
        with jit.quantized_engine("x86"):
            assert torch.equal(jit.script_and_freeze(int8)(x), outputs)
    assert not [name for name, part in int8.named_modules() if type(part) in (nn.Conv2d, nn.Linear)]


def test_dropout_that_a_trace_would_fix_is_refused() -> None:
    config = ExternalConfig(family="external", name="timm:vit_tiny_patch16_224", args={**VIT, "attn_drop_rate": 0.3})
    model = new_model(config, Inputs("image", (3, 32, 32)), Outputs(3), seed=0)
    with pytest.raises(UsageError, match="its dropout cannot be turned off"):
        prepare_ptq(model, "x86")


TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.mark.parametrize(
    ("name", "args", "inputs"),
    [
        ("hf:bert", TINY, Inputs("text", (8,), vocabulary=20)),
        ("hf:gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 2}, Inputs("text", (8,), vocabulary=20)),
        ("hf:vit", {**TINY, "patch_size": 8}, Inputs("image", (3, 32, 32))),
    ],
    ids=["bert", "gpt2", "vit"],
)
@pytest.mark.parametrize("mode", ["ptq", "qat"])
def test_hugging_face_models_become_int8_layer_by_layer(
    name: str, args: dict[str, Any], inputs: Inputs, mode: str, tmp_path: Path
) -> None:
    model = make(name, {**args, "initializer_range": 0.2}, inputs)
    prepared = {"ptq": prepare_ptq, "qat": prepare_qat}[mode](model, "x86")
    with calibrating(prepared.module), torch.no_grad():
        prepared.module(inputs.example(32))
    save_model(prepared, tmp_path)
    loaded, x = load_model(tmp_path), inputs.example(16, seed=1)
    with torch.inference_mode(), jit.quantized_engine("x86"):
        int8 = convert(loaded)
        assert torch.equal(loaded.module(x), prepared.module(x))
        assert sqnr_db(int8(x), model.module(x)) > 15
        assert torch.allclose(jit.trace_and_freeze(int8, inputs.example(2))(x), int8(x), atol=1e-5)
    float_left = [type(part).__name__ for part in int8.modules() if type(part) in (nn.Conv2d, nn.Linear)]
    assert not float_left
    assert not [part for part in int8.modules() if type(part).__name__ == "Conv1D"]


def test_what_does_not_script_is_exported_as_a_trace_that_says_so(
    data: DataModule, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    args = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = make("hf:vit", {**args, "patch_size": 4}, data.spec.inputs)
    path = tmp_path / "model.ts"
    _, verification = export_and_verify(model, data, path, config=CONFIG, source=SOURCE)
    assert verification.ok
    assert "batch sizes" in [check.name for check in verification.checks]
    assert read_spec(path.read_bytes(), path).manifest["traced"] is True
    assert "holds a TRACE" in capfd.readouterr().err


def test_what_scripts_is_not_traced(data: DataModule, tmp_path: Path) -> None:
    path = tmp_path / "model.ts"
    export_torchscript(make("torchvision:resnet18", {}, data.spec.inputs), data, path, config=CONFIG, source=SOURCE)
    assert "traced" not in read_spec(path.read_bytes(), path).manifest
