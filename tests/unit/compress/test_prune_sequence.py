"""Pruning of the families for texts and series: what becomes smaller, what never does, and that it comes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scaledl.compress.groups import SCORES, Cut, Group, Size, blocks, one_each, strided
from scaledl.compress.prune import own_groups, prune_model
from scaledl.config.schema import Config, GPTConfig, GRUConfig, LSTMConfig, PruneConfig, RNNConfig, TransformerConfig
from scaledl.data import Batch, DataSpec
from scaledl.errors import UsageError
from scaledl.models.structure import Model, load_model, new_model, save_model
from scaledl.runtime.signature import Inputs, Outputs
from scaledl.tasks.base import Task
from scaledl.tasks.model import task_around

pytestmark = pytest.mark.unit

TEXT, SERIES = Inputs("text", (12,), vocabulary=30), Inputs("series", (3, 20))
LSTM = LSTMConfig(family="lstm", hidden=16, embedding=16, layers=2, bidirectional=True, dense=16)
MODELS: dict[str, Any] = {
    "rnn": (RNNConfig(family="rnn", hidden=16), SERIES, Outputs(5, "steps")),
    "lstm": (LSTM, TEXT, Outputs(5)),
    "gru": (GRUConfig(family="gru", hidden=16, bidirectional=True), SERIES, Outputs(5)),
    "transformer": (TransformerConfig(family="transformer", width=32, layers=2), TEXT, Outputs(5)),
    "gpt": (GPTConfig(family="gpt", width=32, layers=2), TEXT, Outputs(30, "steps")),
}
HALF = PruneConfig(round_to=4)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make(name: str) -> Model:
    config, inputs, outputs = MODELS[name]
    model = new_model(config, inputs, outputs, seed=0)
    return Model(model.module.eval(), model.structure)


def batches(model: Model) -> Iterator[Batch]:
    x = model.structure.inputs.example(8)
    while True:
        yield Batch(x, torch.arange(8) % 5, torch.arange(8))


def task_of(module: nn.Module) -> Task:
    spec = DataSpec("made-up", (12,), tuple("abcde"), (), (), "0", kind="text", vocabulary=30)
    return task_around(module, Config(), spec)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_what_was_pruned_comes_back_bit_for_bit_and_may_be_pruned_again(name: str, tmp_path: Path) -> None:
    model = make(name)
    with torch.enable_grad():
        once = prune_model(model, HALF, iter(()))
        twice = prune_model(once, HALF, iter(()))
    x = model.structure.inputs.example(3)
    sizes = [sum(p.numel() for p in each.module.parameters()) for each in (model, once, twice)]
    assert sizes[0] > sizes[1] > sizes[2]
    save_model(twice, tmp_path)
    assert torch.equal(load_model(tmp_path).module(x), twice.module(x))
    assert twice.module(x).shape == model.module(x).shape


def test_every_width_of_an_lstm_is_halved() -> None:
    small: Any = prune_model(make("lstm"), HALF, iter(())).module
    assert small.front.embed.weight.shape == (30, 8)
    assert (small.front.embed.embedding_dim, small.pool.ahead) == (8, 8)
    for number, layer in enumerate(small.layers):
        for direction in (layer.ahead, layer.back):
            inputs = 16 if number else 8  # two directions of 8
            assert (direction.input_size, direction.hidden_size) == (inputs, 8)
            assert direction.weight_ih_l0.shape == (32, inputs)
            assert direction.weight_hh_l0.shape == (32, 8)
            assert direction.bias_hh_l0.shape == (32,)
            assert direction._flat_weights[1] is direction.weight_hh_l0
    assert small.dense[0].weight.shape == (8, 16)
    assert small.head.weight.shape == (5, 8)


@pytest.mark.parametrize("name", ["transformer", "gpt"])
def test_half_the_heads_and_hidden_units_of_a_transformer_go(name: str) -> None:
    small: Any = prune_model(make(name), PruneConfig(), iter(())).module
    for block in small.blocks:
        attention = block.attention
        assert (attention.num_heads, attention.head_dim, attention.scale) == (2, 8, 8**-0.5)
        assert [part.out_features for part in (attention.q, attention.k, attention.v)] == [16, 16, 16]
        assert attention.out.weight.shape == (32, 16)
        assert (block.feed[0].out_features, block.feed[2].in_features) == (64, 64)
    if name == "gpt":
        assert small.head.weight is small.embed.weight


def test_heads_as_wide_as_a_multiple_go_one_by_one() -> None:
    kept = [
        [block.attention.num_heads for block in prune_model(make("gpt"), stage, iter(())).module.blocks]
        for stage in (PruneConfig(ratio=0.25, round_to=8), PruneConfig(ratio=0.75, round_to=16))
    ]
    assert kept == [[3, 3], [2, 2]]  # of 4, 8 wide: 16 are two of them


def test_ranking_over_all_layers_takes_more_where_less_is_lost() -> None:
    model = make("gpt")
    with torch.no_grad():
        for name in ("blocks.0.feed.0.weight", "blocks.0.feed.2.weight"):
            weight = model.module.get_parameter(name)
            (weight if len(weight) == 128 else weight.T)[:96] *= 0.01
    small: Any = prune_model(model, PruneConfig(scope="global"), iter(())).module
    assert [block.feed[0].out_features for block in small.blocks] == [32, 96]


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_gradients_choose_other_units_than_weights(name: str) -> None:
    model = make(name)
    by_weight = prune_model(model, HALF, iter(()))
    stage = PruneConfig(round_to=4, importance="taylor")
    by_gradient = prune_model(model, stage, batches(model), task_fn=task_of)
    assert all(p.grad is None for p in by_gradient.module.parameters())
    pairs = zip(by_weight.module.parameters(), by_gradient.module.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_batchnorm_cannot_rank_what_has_none() -> None:
    with pytest.raises(UsageError, match="importance 'bn_scale' needs BatchNorm layers and the model has none"):
        prune_model(make("lstm"), PruneConfig(importance="bn_scale"), iter(()))


def test_too_narrow_to_lose_anything_is_said() -> None:
    with pytest.raises(UsageError, match=r"none of the 6 groups of layers can lose channels at ratio=0\.5"):
        prune_model(make("lstm"), PruneConfig(round_to=16), iter(()))


def test_other_models_have_no_groups_of_ours() -> None:
    assert own_groups(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))) == []


def pair() -> tuple[nn.Linear, nn.Linear, Group]:
    """Two layers; channel c of the group are rows c and c + 3 of one, and column c of the other."""
    first, last = nn.Linear(2, 6), nn.Linear(3, 1)
    cuts = (Cut(first, "weight", 0, strided(3, 2)), Cut(first, "bias", 0, strided(3, 2)))
    cut = Cut(last, "weight", 1, one_each(3))
    return first, last, Group((*cuts, cut), (Size(first, "out_features", 2), Size(last, "in_features")))


def test_a_group_takes_every_place_of_a_channel() -> None:
    first, last, group = pair()
    rows, columns = first.weight.detach().clone(), last.weight.detach().clone()
    group.remove_([1])
    assert torch.equal(first.weight, rows[[0, 2, 3, 5]])
    assert torch.equal(last.weight, columns[:, [0, 2]])
    assert (first.out_features, first.bias.shape, last.in_features) == (4, (4,), 2)


def test_scores_by_hand() -> None:
    first, last, group = pair()
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[3.0, 0], [1, 1], [0, 0], [0, 0], [1, 1], [2, 0]]))
        last.weight.copy_(torch.tensor([[4.0, 0, 0]]))
    norms = torch.tensor([5.0, 2.0, 2.0])
    torch.testing.assert_close(SCORES["magnitude"](group), norms / norms.mean())
    first.weight.grad, last.weight.grad = torch.ones(6, 2), torch.tensor([[-2.0, 0, 0]])
    terms: Tensor = torch.tensor([3.0 + 8, 4, 2])
    torch.testing.assert_close(SCORES["taylor"](group), terms / terms.mean())


def test_places_of_a_channel() -> None:
    assert blocks(2, 3, offset=1).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert strided(2, 3).tolist() == [[0, 2, 4], [1, 3, 5]]
    assert one_each(2, offset=4).tolist() == [[4], [5]]
