"""The causal language model: what a token sees, tied weights, a reference written out."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scaledl.config.schema import GPTConfig
from scaledl.errors import UsageError
from scaledl.models.structure import load_model, new_model, save_model
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.unit

TEXT, LOGITS = Inputs("text", (12,), vocabulary=30), Outputs(30, "steps")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def section(**keys: Any) -> GPTConfig:
    return GPTConfig(family="gpt", **{"width": 16, "heads": 2, "layers": 2, **keys})


def build(outputs: Outputs = LOGITS, **keys: Any) -> Any:
    return new_model(section(**keys), TEXT, outputs, seed=0).module.eval()


@torch.no_grad()
def written_out(model: Any, ids: Tensor) -> Tensor:
    """GPT-2's formulas, head by head, for one text [T] -> [T, V]."""
    x = model.embed.weight[ids] + model.positions.table[: len(ids)]
    future = torch.ones(len(ids), len(ids), dtype=torch.bool).triu(1)
    for block in model.blocks:
        normal, heads = block.norm1(x), []
        for head in range(2):
            rows = slice(8 * head, 8 * head + 8)
            q, k, v = (
                normal @ part.weight[rows].T + part.bias[rows]
                for part in (block.attention.q, block.attention.k, block.attention.v)
            )
            heads.append((q @ k.T / math.sqrt(8)).masked_fill(future, -math.inf).softmax(1) @ v)
        x = x + torch.cat(heads, 1) @ block.attention.out.weight.T + block.attention.out.bias
        x = x + block.feed[2](nn.functional.gelu(block.feed[0](block.norm2(x))))
    return model.norm(x) @ model.embed.weight.T


@torch.no_grad()
def test_equals_the_formulas() -> None:
    model, ids = build(), TEXT.example(3)
    for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    for text, logits in zip(ids, model(ids), strict=True):
        torch.testing.assert_close(logits.T, written_out(model, text), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_token_does_not_see_what_comes_after_it() -> None:
    model, ids = build(), TEXT.example(3)
    logits = model(ids)
    assert logits.shape == (3, 30, 12)
    changed = ids.clone()
    changed[:, 7:] = 0
    torch.testing.assert_close(model(changed)[..., :7], logits[..., :7])
    torch.testing.assert_close(model(ids[:, :7]), logits[..., :7])
    assert not torch.allclose(model(changed)[..., 7:], logits[..., 7:])


@torch.no_grad()
def test_scripts_and_traces() -> None:
    model, ids = build(drop_path=0.1), TEXT.example(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is deprecated, and still what is exported to
        assert torch.equal(torch.jit.script(model)(ids), model(ids))
    assert torch.equal(torch.fx.symbolic_trace(model)(ids), model(ids))


@pytest.mark.parametrize("tied", [True, False])
def test_comes_back_bit_for_bit_and_as_tied(tied: bool, tmp_path: Path) -> None:
    model = new_model(section(tied=tied), TEXT, LOGITS, seed=0)
    assert (model.module.head.weight is model.module.embed.weight) is tied
    save_model(model, tmp_path)
    loaded: Any = load_model(tmp_path).module
    ids = TEXT.example(3)
    assert torch.equal(loaded(ids), model.module.eval()(ids))
    assert (loaded.head.weight is loaded.embed.weight) is tied


@pytest.mark.parametrize("width", [64, 768])
def test_initial_weights_are_gpt2s_at_its_width(width: int) -> None:
    std = 0.02 * math.sqrt(768 / width)
    model = build(width=width, heads=4, layers=2)
    drawn = (
        model.embed.weight,
        model.positions.table,
        model.blocks[1].feed[0].weight,
        model.blocks[1].attention.q.weight,
    )
    added = (model.blocks[1].feed[2].weight, model.blocks[0].attention.out.weight)
    assert [float(weight.detach().std()) for weight in drawn] == pytest.approx([std] * 4, rel=0.1)
    assert [float(weight.detach().std()) for weight in added] == pytest.approx([std / 2] * 2, rel=0.1)
    loss = nn.functional.cross_entropy(model(TEXT.example(16)), TEXT.example(16, seed=1))
    assert loss.item() == pytest.approx(math.log(30) + 768 * 0.02**2 / 2, rel=0.05)  # logits as wide as they start out


def test_learns_a_text_by_heart() -> None:
    model = build(dropout=0.0).train()
    ids = TEXT.example(4)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(ids[:, :-1]), ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5


@pytest.mark.parametrize(
    ("inputs", "outputs", "keys", "message"),
    [
        (TEXT, Outputs(5, "steps"), {}, r"model\.tied: got true, and the task wants 5 outputs .* has 30"),
        (TEXT, Outputs(5), {}, "got gpt, and the task wants outputs of the form 'vector' for text inputs"),
        (Inputs("series", (3, 20)), LOGITS, {}, r"got gpt, and an input of the data has the shape \[3, 20\]"),
        (TEXT, LOGITS, {"heads": 5}, r"model\.heads: got 5"),
    ],
)
def test_what_does_not_fit_is_said(inputs: Inputs, outputs: Outputs, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        new_model(section(**keys), inputs, outputs, seed=0)


def test_tags_need_weights_of_their_own() -> None:
    assert build(Outputs(5, "steps"), tied=False)(TEXT.example(2)).shape == (2, 5, 12)
