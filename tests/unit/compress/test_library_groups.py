"""Heads and MLPs of other libraries' transformers: what goes, that nothing else changes, and that it comes back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scaledl.compress.groups import Group
from scaledl.compress.library_groups import go_alone
from scaledl.compress.prune import prune_model
from scaledl.compress.prune_heads import head_groups
from scaledl.compress.prune_mlps import mlp_groups
from scaledl.config.schema import Config, ExternalConfig, PruneConfig
from scaledl.data import Batch, DataSpec
from scaledl.models.structure import Model, load_model, new_model, save_model
from scaledl.runtime.signature import Inputs, Outputs
from scaledl.tasks.model import task_around

pytestmark = pytest.mark.unit

TEXT, IMAGE = Inputs("text", (12,), vocabulary=40), Inputs("image", (3, 32, 32))
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
# Inputs, settings, and how many groups of heads and of MLPs: DistilBERT's and OPT's MLPs are left to Torch-Pruning.
KINDS: dict[str, tuple[Inputs, dict[str, Any], int, int]] = {
    "bert": (TEXT, SIZES, 2, 2),
    "roberta": (TEXT, SIZES, 2, 2),
    "electra": (TEXT, {**SIZES, "embedding_size": 32}, 2, 2),
    "distilbert": (TEXT, DISTILBERT, 2, 0),
    "gpt2": (TEXT, {"n_embd": 32, "n_layer": 2, "n_head": 4}, 2, 2),
    "llama": (TEXT, {**SIZES, "num_key_value_heads": 4}, 2, 2),
    "vit": (IMAGE, {**SIZES, "patch_size": 8}, 2, 0),
}


@pytest.fixture(autouse=True)
def _one_thread(cannot: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    if find_spec("transformers") is None:
        cannot("transformers is not installed")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def make(kind: str, **args: Any) -> Model:
    inputs, sizes, *_ = KINDS.get(kind, (TEXT, SIZES))
    settings = {"initializer_range": 0.2, **sizes, **args}
    config = ExternalConfig(family="external", name=f"hf:{kind}", args=settings)
    model = new_model(config, inputs, Outputs(5), seed=1)
    return Model(model.module.eval(), model.structure)


def fewer(model: Model, importance: str = "magnitude") -> Model:
    """Half as wide."""
    inputs = model.structure.inputs
    x = inputs.example(8)
    spec = DataSpec("made-up", x.shape[1:], tuple("abcde"), (), (), "0", kind=inputs.kind, vocabulary=40)
    stage = PruneConfig.model_validate({"ratio": 0.5, "round_to": 4, "importance": importance})
    batches = iter([Batch(x, torch.arange(8) % 5, torch.arange(8))])
    return prune_model(model, stage, batches, task_fn=lambda module: task_around(module, Config(), spec))


@torch.no_grad()
def unread(module: nn.Module, groups_of: Callable[[nn.Module], Iterator[Group]], channels: list[int]) -> nn.Module:
    """A copy in which nothing reads these channels of each group."""
    copied = copy.deepcopy(module)
    for group in groups_of(copied):
        reads = group.cuts[-1]
        reads.module.get_parameter(reads.name).index_fill_(reads.dim, reads.index[channels].flatten(), 0.0)
    return copied


@pytest.mark.parametrize("groups_of", [head_groups, mlp_groups])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_model_without_channels_computes_what_it_does_where_nothing_reads_them(
    kind: str, groups_of: Callable[[nn.Module], Iterator[Group]]
) -> None:
    model = make(kind)
    module, x = model.module, model.structure.inputs.example(4)
    channels = [0, 2]
    expected = unread(module, groups_of, channels)(x)
    groups = list(groups_of(module))
    assert len(groups) == KINDS[kind][2 if groups_of is head_groups else 3]
    assert not groups or (expected - module(x)).abs().max() > 1e-3  # what goes had been read
    for group in groups:
        group.remove_(channels)
    torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
@pytest.mark.parametrize("kind", KINDS)
def test_half_of_heads_and_mlps_go_and_the_rest_comes_back(kind: str, importance: str, tmp_path: Path) -> None:
    model = make(kind)
    small = fewer(model, importance)
    for before, after in zip(head_groups(model.module), head_groups(small.module), strict=True):
        assert [len(group.cuts[-1].index) for group in (before, after)] == [4, 2]
    for before, after in zip(mlp_groups(model.module), mlp_groups(small.module), strict=True):
        assert len(after.cuts[-1].index) == len(before.cuts[-1].index) / 2
    save_model(small, tmp_path)
    x = model.structure.inputs.example(3)
    with torch.inference_mode():
        assert torch.equal(load_model(tmp_path).module(x), small.module(x))


def test_the_head_that_is_read_least_goes() -> None:
    model = make("bert")
    for group in head_groups(model.module):
        for cut in group.cuts:
            with torch.no_grad():
                cut.module.get_parameter(cut.name).index_fill_(cut.dim, cut.index[[1, 3]].flatten(), 1e-4)
    small = fewer(model)
    for before, after in zip(head_groups(model.module), head_groups(small.module), strict=True):
        cut, left = before.cuts[0], after.cuts[0]
        kept = cut.module.get_parameter("weight")[cut.index[[0, 2]].flatten()]
        assert torch.equal(left.module.get_parameter("weight"), kept)


def test_where_a_part_knows_how_many_heads_there_are_they_stay(capfd: pytest.CaptureFixture[str]) -> None:
    """Here a bias for each head, added from outside of the attention."""

    class Biased(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model
            self.heads = 4

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            layer = next(head_groups(self.model)).cuts[-1].module
            assert isinstance(layer, nn.Linear)
            if layer.in_features != 8 * self.heads:
                raise RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")
            outputs: torch.Tensor = self.model(ids)
            return outputs

    assert go_alone(make("bert").module, head_groups, TEXT)
    assert not go_alone(Biased(make("bert").module), head_groups, TEXT)
    fewer(make("mpnet"))
    assert "only hidden widths are pruned" in capfd.readouterr().out


def test_where_the_first_channel_is_not_like_the_others_they_stay() -> None:
    """A trial in numbers, not only whether it runs: this attention reads its first head twice."""

    class Twice(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            query = next(head_groups(self.model)).cuts[0].module.get_parameter("weight")
            outputs: torch.Tensor = self.model(ids) + query.double().sum()
            return outputs

    assert not go_alone(Twice(make("bert").module), head_groups, TEXT)


def test_gradients_count_also_where_the_whole_cannot_be_pruned() -> None:
    model = make("gpt_neox")
    by = {importance: fewer(model, importance) for importance in ("magnitude", "taylor")}
    widths = {importance: small.module.state_dict() for importance, small in by.items()}
    name = next(name for name in widths["taylor"] if name.endswith("dense_h_to_4h.weight"))
    assert widths["taylor"][name].shape == (32, 32)
    assert not torch.equal(widths["taylor"][name], widths["magnitude"][name])


def test_heads_that_share_keys_stay() -> None:
    small = fewer(make("qwen2", num_key_value_heads=2))
    assert not list(head_groups(small.module))
    assert [group.cuts[-1].index.shape for group in mlp_groups(small.module)] == [(32, 1), (32, 1)]
