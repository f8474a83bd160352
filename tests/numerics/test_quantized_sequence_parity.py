"""int8 of the families for texts and series against the float model, and the fake-quantized one that foretells it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from scaledl.config.schema import GPTConfig, GRUConfig, LSTMConfig, RNNConfig, TransformerConfig
from scaledl.models.quantized import calibrating, convert, prepare_ptq, prepare_qat
from scaledl.models.structure import Model, new_model
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.numerics

# Random weights. Measured: rnn 29 to 32, gru 31 to 33, lstm 32 to 37, transformers 24 to 36 dB; a vision transformer
# that is int8 throughout has 1 dB.
MIN_SQNR_DB = 22.0
TEXT, SERIES = Inputs("text", (24,), vocabulary=60), Inputs("series", (3, 40))
MODELS: dict[str, Any] = {
    "rnn": (RNNConfig(family="rnn", hidden=32, embedding=16, bidirectional=True), TEXT, Outputs(5)),
    "lstm": (LSTMConfig(family="lstm", hidden=32, layers=2), SERIES, Outputs(5, "steps")),
    "gru": (GRUConfig(family="gru", hidden=32, embedding=16, bidirectional=True, layers=2), TEXT, Outputs(5)),
    "transformer": (TransformerConfig(family="transformer", width=32, layers=2), TEXT, Outputs(5)),
    "patches": (TransformerConfig(family="transformer", width=32, layers=2, patch=4, norm="post"), SERIES, Outputs(5)),
    "gpt": (GPTConfig(family="gpt", width=32, layers=2), TEXT, Outputs(60, "steps")),
}
CASES = [(name, "ptq") for name in MODELS] + [(name, "qat") for name in ("transformer", "patches", "gpt")]


def sqnr(reference: torch.Tensor, got: torch.Tensor) -> float:
    """Signal to quantization noise, dB."""
    return float(10 * torch.log10(reference.square().sum() / (reference - got).square().sum()))


@pytest.mark.parametrize("engine", ["x86", "onednn"])
@pytest.mark.parametrize(("name", "mode"), CASES)
@torch.no_grad()
def test_int8_outputs_stay_close(name: str, mode: str, engine: str) -> None:
    torch.set_num_threads(1)
    config, inputs, outputs = MODELS[name]
    made = new_model(config, inputs, outputs, seed=0)
    model, x = Model(made.module.eval(), made.structure), inputs.example(64)
    if inputs is TEXT:
        x[::3, 10:] = 0
    prepared = {"ptq": prepare_ptq, "qat": prepare_qat}[mode](model, engine)
    with calibrating(prepared.module):
        assert sqnr(model.module(x), prepared.module(x)) > 90, "calibration computes in float"
    reference, foretold, real = model.module(x), prepared.module(x), convert(prepared)(x)
    assert sqnr(reference, real) > MIN_SQNR_DB
    assert sqnr(foretold, real) > MIN_SQNR_DB
