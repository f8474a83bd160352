"""The encoder against torch's own layers, and in every form that the tool chain needs."""

from __future__ import annotations

import itertools
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scaledl.config.schema import TransformerConfig
from scaledl.errors import UsageError
from scaledl.models.blocks import Block, sinusoids
from scaledl.models.structure import load_model, new_model, save_model
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.unit

TEXT, SERIES = Inputs("text", (12,), vocabulary=30), Inputs("series", (3, 20))
VECTOR, STEPS = Outputs(5), Outputs(5, "steps")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def section(**keys: Any) -> TransformerConfig:
    return TransformerConfig(family="transformer", **{"width": 16, "heads": 2, "layers": 2, **keys})


def build(inputs: Inputs, outputs: Outputs = VECTOR, **keys: Any) -> Any:
    return new_model(section(**keys), inputs, outputs, seed=0).module.eval()


def texts() -> Tensor:
    """Four texts of 8, 5, 6 and 1 tokens, and padding to 12."""
    ids = TEXT.example(4)
    for row, length in enumerate((8, 5, 6, 1)):
        ids[row, length:] = 0
    return ids


def script(model: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is deprecated, and still what is exported to
        return torch.jit.script(model)


@pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
@pytest.mark.parametrize("inputs", [TEXT, SERIES], ids=["text", "series"])
@torch.no_grad()
def test_shapes(inputs: Inputs, positions: Any, pooling: Any) -> None:
    x = texts() if inputs is TEXT else SERIES.example(4)
    for outputs, norm in itertools.product((VECTOR, STEPS), ("pre", "post")):
        model = build(inputs, outputs, positions=positions, pooling=pooling, norm=norm, patch=4, drop_path=0.2)
        y = model(x)
        assert y.shape == (4, *outputs.shape(inputs))
        assert torch.equal(torch.fx.symbolic_trace(model)(x), y)


@pytest.mark.parametrize(
    ("inputs", "outputs", "keys"),
    [
        (TEXT, VECTOR, {"pooling": "cls", "norm": "post"}),
        (TEXT, STEPS, {"positions": "sinusoidal"}),
        (SERIES, STEPS, {"patch": 4, "drop_path": 0.2}),
        (SERIES, VECTOR, {"pooling": "max"}),
    ],
)
@torch.no_grad()
def test_scripts(inputs: Inputs, outputs: Outputs, keys: dict[str, Any]) -> None:
    x = texts() if inputs is TEXT else SERIES.example(4)
    model = build(inputs, outputs, **keys)
    assert torch.equal(script(model)(x), model(x))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("pre_norm", [True, False])
@torch.no_grad()
def test_a_block_equals_torchs_own(pre_norm: bool, activation: Any) -> None:
    ours = Block(section(activation=activation, feedforward=24), 0.0, pre_norm=pre_norm).eval()
    theirs = nn.TransformerEncoderLayer(16, 2, 24, activation=activation, batch_first=True, norm_first=pre_norm).eval()
    for parameter in ours.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    inner = (ours.attention.q, ours.attention.k, ours.attention.v)
    theirs.self_attn.in_proj_weight.copy_(torch.cat([layer.weight for layer in inner]))
    theirs.self_attn.in_proj_bias.copy_(torch.cat([layer.bias for layer in inner]))
    pairs = [(theirs.self_attn.out_proj, ours.attention.out), (theirs.linear1, ours.feed[0])]
    pairs += [(theirs.linear2, ours.feed[2]), (theirs.norm1, ours.norm1), (theirs.norm2, ours.norm2)]
    for to, source in pairs:
        to.load_state_dict(source.state_dict())
    x, mask = torch.randn(3, 7, 16), torch.arange(7) < torch.tensor([[7], [4], [2]])
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours(x, mask)[mask], theirs(x, src_key_padding_mask=~mask)[mask])


def test_sinusoids_are_the_papers() -> None:
    expected = np.empty((50, 6))
    for place, i in itertools.product(range(50), range(3)):
        angle = place / 10000 ** (2 * i / 6)
        expected[place, 2 * i], expected[place, 2 * i + 1] = math.sin(angle), math.cos(angle)
    torch.testing.assert_close(sinusoids(50, 6), torch.from_numpy(expected).float(), atol=1e-5, rtol=0)
    assert sinusoids(4, 5).shape == (4, 5)


@pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
@torch.no_grad()
def test_padding_changes_nothing(pooling: Any) -> None:
    ids = texts()
    for positions in ("learned", "sinusoidal"):
        model = build(TEXT, pooling=pooling, positions=positions)
        torch.testing.assert_close(model(ids[:, :8]), model(ids), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model(ids[1:2, :5]), model(ids[1:2]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_order_matters_through_positions_alone() -> None:
    model, ids = build(TEXT), TEXT.example(2)
    assert not torch.allclose(model(ids), model(ids.flip(1)), atol=1e-4)
    model.positions.table.zero_()
    torch.testing.assert_close(model(ids), model(ids.flip(1)), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_patch_is_some_steps_of_all_channels() -> None:
    model, x = build(SERIES, patch=5), SERIES.example(2)
    patches, lengths = model.front(x)
    assert lengths.tolist() == [[4], [4]]
    torch.testing.assert_close(patches[:, 2], model.front.embed(x[:, :, 10:15].flatten(1)))


@torch.no_grad()
def test_outputs_of_a_patch_belong_to_its_steps() -> None:
    model = build(SERIES, Outputs(2, "steps"), patch=4)
    raw: list[Tensor] = []
    model.head.register_forward_hook(lambda layer, inputs, output: raw.append(output))
    y = model(SERIES.example(1))
    assert torch.equal(y[0, 1, 8:12], raw[0][0, 2, 4:8])  # second output, third patch


def test_a_series_comes_out_again() -> None:
    assert build(SERIES, Outputs(1, "input"), patch=2)(SERIES.example(2)).shape == (2, 3, 20)


@pytest.mark.parametrize("inputs", [TEXT, SERIES], ids=["text", "series"])
def test_comes_back_bit_for_bit(inputs: Inputs, tmp_path: Path) -> None:
    model = new_model(section(positions="sinusoidal", pooling="cls", drop_path=0.1), inputs, VECTOR, seed=0)
    save_model(model, tmp_path)
    x = inputs.example(3)
    assert torch.equal(load_model(tmp_path).module(x), model.module.eval()(x))


def test_learns_what_the_first_token_says() -> None:
    model = build(TEXT, Outputs(2), layers=1, dropout=0.0).train()
    ids = TEXT.example(32)
    y = (ids[:, 0] > 15).long()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(40):
        loss = nn.functional.cross_entropy(model(ids), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


@pytest.mark.parametrize(
    ("inputs", "keys", "message"),
    [
        (TEXT, {"heads": 3}, r"model\.heads: got 3; allowed with model\.width 16, .*: 1, 2, 4, 8, 16"),
        (SERIES, {"patch": 3}, r"model\.patch: got 3; allowed for series of 20 steps: 1, 2, 4, 5, 10, 20"),
        (TEXT, {"dropout_kind": "spatial"}, r"model\.dropout_kind: got 'spatial', and transformer"),
        (Inputs("image", (1, 8, 8)), {}, r"got transformer, and an input of the data has the shape \[1, 8, 8\]"),
    ],
)
def test_what_does_not_fit_is_said(inputs: Inputs, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(inputs, **keys)
