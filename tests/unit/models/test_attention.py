"""Self-attention against torch's own, in every form that the tool chain needs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from scaledl.compress.prune import plan_pruning
from scaledl.config.schema import PruneConfig
from scaledl.models.attention import SelfAttention
from scaledl.runtime.jit import script
from scaledl.runtime.signature import Inputs

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def torchs_own(ours: SelfAttention) -> nn.MultiheadAttention:
    """With the same weights."""
    theirs = nn.MultiheadAttention(ours.q.in_features, ours.num_heads, batch_first=True).eval()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.k.bias, ours.v.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    return theirs


@pytest.mark.parametrize("num_heads", [1, 4])
def test_equals_torchs_own(num_heads: int) -> None:
    ours, x = SelfAttention(16, num_heads).eval(), torch.randn(3, 7, 16)
    expected, _ = torchs_own(ours)(x, x, x)
    torch.testing.assert_close(ours(x), expected)


def test_padding_is_not_looked_at() -> None:
    ours, x = SelfAttention(16, 4).eval(), torch.randn(3, 7, 16)
    mask = torch.arange(7) < torch.tensor([[7], [4], [1]])
    expected, _ = torchs_own(ours)(x, x, x, key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, mask), expected)
    changed = torch.where(mask[:, :, None], x, torch.randn(3, 7, 16))
    torch.testing.assert_close(ours(changed, mask)[mask], ours(x, mask)[mask])


def test_causal_steps_look_back_only() -> None:
    ours, x = SelfAttention(16, 4, causal=True).eval(), torch.randn(3, 7, 16)
    future = nn.Transformer.generate_square_subsequent_mask(7)
    expected, _ = torchs_own(ours)(x, x, x, attn_mask=future, is_causal=True)
    torch.testing.assert_close(ours(x), expected)
    torch.testing.assert_close(ours(x[:, :4]), ours(x)[:, :4])


@pytest.mark.parametrize("causal", [False, True])
def test_scripts_and_traces(causal: bool) -> None:
    ours, x = SelfAttention(16, 4, causal=causal).eval(), torch.randn(3, 7, 16)
    assert torch.equal(script(ours)(x), ours(x))
    traced = torch.fx.symbolic_trace(ours, concrete_args={"mask": None})
    assert torch.equal(traced(x[:2, :5]), ours(x[:2, :5]))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="10 channels cannot be divided among 3 heads"):
        SelfAttention(10, 3)


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = SelfAttention(32, 4)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.attention(x.transpose(1, 2)))
        return out


def test_pruning_takes_the_same_channels_of_every_head_and_changes_nothing_else() -> None:
    model, inputs = Attending().eval(), Inputs("series", (32, 6))
    plan = plan_pruning(model, inputs, PruneConfig(ratio=0.5, round_to=2))
    group = next(group for group in plan.chosen if any(dep.target.module is model.attention.q for dep, _ in group))
    gone = torch.tensor(group[0].idxs)
    assert len(gone) == 16
    assert len({tuple(sorted((gone[gone // 8 == head] % 8).tolist())) for head in range(4)}) == 1
    with torch.no_grad():
        for layer in (model.attention.q, model.attention.k, model.attention.v):
            layer.weight[gone] = 0
            layer.bias[gone] = 0
        expected = model(inputs.example(3))
        for chosen in plan.chosen:
            if chosen is group:
                chosen.prune()
        model.attention.head_dim = 4
        assert model.attention.q.weight.shape == (16, 32)
        torch.testing.assert_close(model(inputs.example(3)), expected, atol=1e-6, rtol=1e-5)


def test_pruning_brings_the_heads_up_to_date() -> None:
    model, inputs = Attending().eval(), Inputs("series", (32, 6))
    plan_pruning(model, inputs, PruneConfig(ratio=0.5, round_to=2)).execute_()
    assert (model.attention.num_heads, model.attention.head_dim) == (4, 4)
    assert model.attention.scale == 8**-0.5
    assert model(inputs.example(2)).shape == (2, 6, 5)
