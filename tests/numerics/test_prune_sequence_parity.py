"""Units, embeddings and heads sliced away equal those set to zero: every dependent tensor was cut alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from scaledl.compress.prune import plan_pruning
from scaledl.config.schema import GPTConfig, GRUConfig, LSTMConfig, PruneConfig, RNNConfig, TransformerConfig
from scaledl.models.structure import new_model
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.numerics

TOLERANCE = 1e-6
TEXT, SERIES = Inputs("text", (12,), vocabulary=30), Inputs("series", (3, 20))
RECURRENT: dict[str, Any] = {"rnn": RNNConfig, "lstm": LSTMConfig, "gru": GRUConfig}


def error_after_slicing(config: Any, inputs: Inputs, outputs: Outputs, stage: PruneConfig, by_readers: bool) -> float:
    """Of pruned against zeroed outputs, relative. Zeroed are the places of a channel: all, or those that read it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = new_model(config, inputs, outputs, seed=0).module.eval()
    x = inputs.example(4)
    if inputs is TEXT:
        x[1, 5:], x[2, 1:] = 0, 0
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        full = module(x)
        plan = plan_pruning(module, inputs, stage)
        for removal in plan.chosen:
            for cut in removal.group.cuts:
                if cut.dim == 1 or not by_readers:
                    tensor = cut.module.get_parameter(cut.name)
                    tensor.movedim(cut.dim, 0)[cut.index[removal.channels].flatten()] = 0
        expected = module(x)
        assert not torch.allclose(full, expected, rtol=1e-2), "zeroing changed nothing: the test would prove nothing"
        plan.execute_()
        return float((module(x) - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("scope", ["uniform", "global"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("family", RECURRENT)
def test_a_recurrent_model(family: str, bidirectional: bool, scope: Any) -> None:
    sizes = {"hidden": 16, "embedding": 16, "layers": 3, "dense": 16}
    stage = PruneConfig(scope=scope, round_to=2)
    for inputs, outputs, pooling in ((TEXT, Outputs(5), "last"), (SERIES, Outputs(5, "steps"), "last")):
        config = RECURRENT[family](family=family, bidirectional=bidirectional, pooling=pooling, **sizes)
        assert error_after_slicing(config, inputs, outputs, stage, by_readers=False) <= TOLERANCE


@pytest.mark.parametrize("scope", ["uniform", "global"])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_an_encoder(norm: Any, scope: Any) -> None:
    config = TransformerConfig(family="transformer", width=32, layers=2, norm=norm)
    for inputs in (TEXT, SERIES):
        assert error_after_slicing(config, inputs, Outputs(5), PruneConfig(scope=scope), by_readers=True) <= TOLERANCE


@pytest.mark.parametrize("tied", [True, False])
def test_a_gpt(tied: bool) -> None:
    config = GPTConfig(family="gpt", width=32, layers=2, tied=tied)
    assert error_after_slicing(config, TEXT, Outputs(30, "steps"), PruneConfig(), by_readers=True) <= TOLERANCE
