"""Recurrent families against torch's own multi-layer modules, and padding against packed sequences."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from scaledl.config.schema import GRUConfig, LSTMConfig, RNNConfig
from scaledl.errors import UsageError
from scaledl.models.recurrent import Recurrent
from scaledl.models.structure import load_model, new_model, save_model
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.unit

SECTIONS: dict[str, Any] = {"rnn": RNNConfig, "lstm": LSTMConfig, "gru": GRUConfig}
THEIRS: dict[str, type[nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
TEXT, SERIES = Inputs("text", (12,), vocabulary=30), Inputs("series", (3, 20))
VECTOR, STEPS = Outputs(5), Outputs(5, "steps")
ALL = pytest.mark.parametrize("family", SECTIONS)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def section(family: str, **keys: Any) -> Any:
    return SECTIONS[family](family=family, **{"hidden": 8, "embedding": 6, **keys})


def build(family: str, inputs: Inputs, outputs: Outputs = VECTOR, **keys: Any) -> Any:
    return new_model(section(family, **keys), inputs, outputs, seed=0).module.eval()


def texts() -> Tensor:
    """Four texts of 12, 5, 1 and 0 tokens."""
    ids = TEXT.example(4)
    ids[1, 5:], ids[2, 1:], ids[3] = 0, 0, 0
    return ids


def script(model: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is deprecated, and still what is exported to
        return torch.jit.script(model)


def torchs_own(ours: Recurrent, family: str, layers: int) -> nn.RNNBase:
    """Several layers in one module, with the same weights."""
    first = ours.layers[0].ahead
    theirs = THEIRS[family](first.input_size, first.hidden_size, layers, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for number, layer in enumerate(ours.layers):
            for direction, suffix in ((layer.ahead, ""), (layer.back, "_reverse")):
                for name, value in direction.named_parameters():
                    getattr(theirs, name.replace("l0", f"l{number}{suffix}")).copy_(value)
    return theirs.eval()


@ALL
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("inputs", [TEXT, SERIES], ids=["text", "series"])
@torch.no_grad()
def test_shapes(family: str, bidirectional: bool, inputs: Inputs) -> None:
    x = texts() if inputs is TEXT else SERIES.example(4)
    for outputs, pooling in itertools.product((VECTOR, STEPS), ("last", "mean", "max")):
        model = build(family, inputs, outputs, bidirectional=bidirectional, pooling=pooling, layers=2, dense=7)
        y = model(x)
        assert y.shape == (4, *outputs.shape(inputs))
        assert y.isfinite().all()
        assert torch.equal(torch.fx.symbolic_trace(model)(x), y)


@ALL
@pytest.mark.parametrize(
    ("inputs", "keys"),
    [(TEXT, {"bidirectional": True}), (SERIES, {"pooling": "mean", "dense": 7}), (TEXT, {"pooling": "max"})],
)
@torch.no_grad()
def test_scripts(family: str, inputs: Inputs, keys: dict[str, Any]) -> None:
    x = texts() if inputs is TEXT else SERIES.example(4)
    model = build(family, inputs, dropout=0.2, **keys)
    assert torch.equal(script(model)(x), model(x))


@ALL
@torch.no_grad()
def test_equals_torchs_own_on_series(family: str) -> None:
    ours = build(family, SERIES, bidirectional=True, layers=2)
    x = SERIES.example(4)
    expected, last = torchs_own(ours, family, 2)(x.transpose(1, 2))
    state = (last[0] if family == "lstm" else last)[-2:]  # of the last layer, both directions
    torch.testing.assert_close(ours(x), ours.head(torch.cat([state[0], state[1]], 1)))
    steps = build(family, SERIES, STEPS, bidirectional=True, layers=2)
    steps.load_state_dict(ours.state_dict())
    torch.testing.assert_close(steps(x), ours.head(expected).transpose(1, 2))


@ALL
@torch.no_grad()
def test_padding_is_what_packing_leaves_out(family: str) -> None:
    ours = build(family, TEXT, bidirectional=True, layers=2)
    ids = texts()[:3]
    packed = pack_padded_sequence(ours.front.embed(ids), torch.tensor([12, 5, 1]), batch_first=True)
    out, last = torchs_own(ours, family, 2)(packed)
    state = (last[0] if family == "lstm" else last)[-2:]
    torch.testing.assert_close(ours(ids), ours.head(torch.cat([state[0], state[1]], 1)))
    padded, _ = pad_packed_sequence(out, batch_first=True)
    steps = build(family, TEXT, STEPS, bidirectional=True, layers=2)
    steps.load_state_dict(ours.state_dict())
    valid = (ids != 0)[:, None, :].expand(-1, 5, -1)
    torch.testing.assert_close(steps(ids)[valid], ours.head(padded).transpose(1, 2)[valid])


@ALL
@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
@torch.no_grad()
def test_more_padding_changes_no_bit(family: str, pooling: Any) -> None:
    ids = texts()
    more = torch.cat([ids, torch.zeros(4, 5, dtype=torch.int64)], 1)
    model = build(family, TEXT, bidirectional=True, layers=2, pooling=pooling)
    assert torch.equal(model(more), model(ids))
    steps = build(family, TEXT, STEPS, bidirectional=True, layers=2)
    assert torch.equal(steps(more)[..., :12], steps(ids))


@torch.no_grad()
def test_pooling_sees_no_padding() -> None:
    ids = texts()[1:2]
    for pooling in ("last", "mean", "max"):
        model = build("gru", TEXT, pooling=pooling)
        torch.testing.assert_close(model(ids), model(ids[:, :5]))


@ALL
def test_comes_back_bit_for_bit(family: str, tmp_path: Path) -> None:
    model = new_model(section(family, bidirectional=True, layers=2, dense=4), TEXT, VECTOR, seed=0)
    save_model(model, tmp_path)
    ids = texts()
    assert torch.equal(load_model(tmp_path).module(ids), model.module.eval()(ids))


@ALL
def test_initial_weights(family: str) -> None:
    layer = build(family, SERIES, hidden=16).layers[0].ahead
    for gate in layer.weight_hh_l0.detach().split(16):
        torch.testing.assert_close(gate @ gate.T, torch.eye(16), atol=1e-5, rtol=0)
    forget = layer.bias_ih_l0[16:32] if family == "lstm" else torch.empty(0)
    assert bool((forget == 1).all())
    assert float((layer.bias_ih_l0 + layer.bias_hh_l0).detach().sum()) == len(forget)


def test_a_simple_network_may_have_rectified_units() -> None:
    x = SERIES.example(2)
    tanh, relu = build("rnn", SERIES, STEPS), build("rnn", SERIES, STEPS, nonlinearity="relu")
    relu.load_state_dict(tanh.state_dict())
    assert not torch.equal(tanh(x), relu(x))
    assert bool((relu.layers[0].ahead(x.transpose(1, 2))[0] >= 0).all())


@ALL
def test_a_series_comes_out_again(family: str) -> None:
    assert build(family, SERIES, Outputs(1, "input"))(SERIES.example(2)).shape == (2, 3, 20)


@ALL
def test_learns(family: str) -> None:
    """Whether the series rises or falls: which only its order says."""
    model = build(family, Inputs("series", (1, 8)), Outputs(2)).train()
    y = torch.tensor([0, 1] * 8)
    x = (torch.rand(16, 1, 8).sort(2).values * 2 - 1) * (2 * y - 1)[:, None, None]
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(40):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


@ALL
@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (Inputs("image", (1, 8, 8)), VECTOR, r"got \w+, and an input of the data has the shape \[1, 8, 8\]"),
        (Inputs("table", (4,)), VECTOR, r"allowed: series, \[channels, steps\]; or texts, \[tokens\]"),
        (TEXT, Outputs(3, "pixels"), "wants outputs of the form 'pixels' for text inputs; allowed: vector, steps"),
    ],
)
def test_what_it_cannot_take_is_said(family: str, inputs: Inputs, outputs: Outputs, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(family, inputs, outputs)


def test_whole_channels_cannot_be_dropped() -> None:
    with pytest.raises(UsageError, match=r"model\.dropout_kind: got 'spatial', and lstm has no convolutions"):
        build("lstm", SERIES, dropout=0.1, dropout_kind="spatial")
