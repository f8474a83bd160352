"""int8 of the families for texts and series: what becomes int8, comes back, and runs as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.ao.nn.quantized as nnq
import torch.ao.nn.quantized.dynamic as nnqd
from torch import Tensor, nn

from scaledl.config.schema import GPTConfig, GRUConfig, LSTMConfig, RNNConfig, TransformerConfig
from scaledl.errors import UsageError
from scaledl.export._verify_child import count_kernels
from scaledl.models.int8_rnn import Int8RNN, int8_rnns_
from scaledl.models.quantized import calibrating, convert, freeze_observers_, prepare_ptq, prepare_qat
from scaledl.models.structure import Model, load_model, new_model, save_model
from scaledl.runtime import jit
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.unit

TEXT, SERIES = Inputs("text", (12,), vocabulary=30), Inputs("series", (3, 20))
RECURRENT: dict[str, Any] = {
    "rnn": (RNNConfig(family="rnn", hidden=8, embedding=8, layers=2, bidirectional=True), TEXT, Outputs(5)),
    "rnn relu": (RNNConfig(family="rnn", hidden=8, nonlinearity="relu"), SERIES, Outputs(5, "steps")),
    "lstm": (LSTMConfig(family="lstm", hidden=8, embedding=8, layers=2, bidirectional=True), TEXT, Outputs(5)),
    "gru": (GRUConfig(family="gru", hidden=8, dense=8), SERIES, Outputs(5)),
}
ATTENDING: dict[str, Any] = {
    "transformer": (TransformerConfig(family="transformer", width=16, layers=1, heads=2), TEXT, Outputs(5)),
    "patches": (
        TransformerConfig(family="transformer", width=16, layers=1, patch=4, norm="post", activation="relu"),
        SERIES,
        Outputs(5),
    ),
    "gpt": (GPTConfig(family="gpt", width=16, layers=1, heads=2), TEXT, Outputs(30, "steps")),
}
MODELS = {**RECURRENT, **ATTENDING}
KERNELS = {
    "rnn": {"quantized::embedding_byte": 1, "quantized::linear": 1, "quantized::quantized_rnn_tanh_cell_dynamic": 48},
    "rnn relu": {"quantized::linear": 1, "quantized::quantized_rnn_relu_cell_dynamic": 20},
    "lstm": {"quantized::embedding_byte": 1, "quantized::linear": 1, "aten::quantized_lstm": 4},
    "gru": {"quantized::linear_relu": 1, "quantized::linear": 1, "aten::quantized_gru": 1},
    "transformer": {"quantized::embedding_byte": 1, "quantized::linear": 7},
    "patches": {"quantized::linear": 7, "quantized::linear_relu": 1},
    "gpt": {"quantized::embedding_byte": 1, "quantized::linear": 7},
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def float_model(name: str) -> tuple[Model, Tensor]:
    config, inputs, outputs = MODELS[name]
    model = new_model(config, inputs, outputs, seed=0)
    return Model(model.module.eval(), model.structure), inputs.example(16)


def calibrated(name: str) -> tuple[Model, Tensor]:
    model, x = float_model(name)
    prepared = prepare_ptq(model, "x86")
    with calibrating(prepared.module), torch.no_grad():
        prepared.module(x)
    return prepared, x


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_prepared_converted_and_exported_are_the_same_bits_again(name: str, tmp_path: Path) -> None:
    model, x = calibrated(name)
    save_model(model, tmp_path)
    loaded, converted = load_model(tmp_path), convert(model)
    assert torch.equal(loaded.module(x), model.module(x))
    expected = converted(x)
    assert torch.equal(convert(loaded)(x), expected)
    with jit.quantized_engine("x86"):
        file = jit.load_bytes(jit.save_bytes(jit.script_and_freeze(converted), {}))
        assert torch.equal(file(x), expected)
        kernels = count_kernels(file, x[:1])
    assert kernels["int8"] == KERNELS[name]
    assert kernels["float"] == {}
    attends = {"aten::scaled_dot_product_attention": 1} if name in ATTENDING else {}
    assert kernels["products"] == attends


@pytest.mark.parametrize("name", RECURRENT)
def test_float_recurrent_kernels_are_seen(name: str) -> None:
    model, x = float_model(name)
    kernels = count_kernels(jit.script_and_freeze(model.module), x[:1])
    assert kernels["int8"] == {}
    assert sum(kernels["float"].values()) > 1
    assert any("rnn" in kernel or kernel in ("aten::lstm", "aten::gru") for kernel in kernels["float"])


@pytest.mark.parametrize("name", MODELS)
def test_nothing_with_weights_is_left_in_float(name: str) -> None:
    model, _ = float_model(name)
    converted = convert(calibrated(name)[0])
    floats = (nn.Linear, nn.RNNBase, nn.Embedding)
    quantized = (nnq.Linear, nnq.Embedding, nnqd.LSTM, nnqd.GRU, Int8RNN)
    assert not [type(layer) for layer in converted.modules() if isinstance(layer, floats)]
    expected = sum(isinstance(layer, floats) for layer in model.module.modules())
    assert sum(isinstance(layer, quantized) for layer in converted.modules()) == expected


@pytest.mark.parametrize("name", ATTENDING)
def test_trains_with_int8_in_mind(name: str) -> None:
    model, x = float_model(name)
    prepared = prepare_qat(model, "x86")
    y = torch.randint(0, 5, prepared.module(x)[:, 0].shape, generator=torch.Generator().manual_seed(0))
    optimizer, losses = torch.optim.Adam(prepared.module.parameters(), 0.01), []
    for _ in range(12):
        loss = nn.functional.cross_entropy(prepared.module.train()(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    for observer in prepared.module.modules():  # ranges follow such quick weights much too slowly
        if hasattr(observer, "averaging_constant"):
            observer.averaging_constant = 1.0
    prepared.module(x)
    freeze_observers_(prepared.module)
    with torch.no_grad():
        same = convert(prepared)(x).argmax(1) == prepared.module.eval()(x).argmax(1)
    assert float(same.double().mean()) > 0.85


def test_tied_weights_stay_tied_while_they_are_trained_for_int8() -> None:
    prepared: Any = prepare_qat(float_model("gpt")[0], "x86").module
    assert prepared.head.weight is prepared.embed.weight


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers_cannot_be_trained_for_int8(name: str) -> None:
    kind = name.split()[0].upper()
    with pytest.raises(UsageError, match=f"got 'qat' for a model with layers of the kind {kind}; allowed: 'ptq'"):
        prepare_qat(float_model(name)[0], "x86")


@torch.no_grad()
def test_an_int8_cell_is_the_layers_to_its_precision() -> None:
    torch.manual_seed(0)
    layer, x = nn.RNN(6, 16, batch_first=True), torch.randn(4, 30, 6)
    expected, last = layer(x)
    states, state = int8_rnns_(nn.Sequential(layer))(x)
    assert states.shape == expected.shape
    assert torch.equal(state[0], states[:, -1])
    assert state.shape == last.shape
    assert 10 * torch.log10(expected.square().sum() / (states - expected).square().sum()) > 25
