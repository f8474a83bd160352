"""Heads and MLPs of other libraries' transformers: what goes, that nothing else changes, and that it comes back."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scaledl.compress.groups import Group
from scaledl.compress.library_groups import library_groups, obstacle
from scaledl.compress.prune import prune_model
from scaledl.compress.prune_heads import head_groups, stack_head_groups
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
T5 = {"d_model": 32, "d_kv": 8, "num_layers": 2, "num_heads": 4, "d_ff": 64}
DEBERTA = {**SIZES, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 16}
SWIN = {"embed_dim": 16, "depths": [1, 1], "num_heads": [4, 4], "window_size": 4, "patch_size": 4}
# Inputs, settings, and how many groups of heads and of MLPs: those of DistilBERT and others are left to Torch-Pruning.
KINDS: dict[str, tuple[Inputs, dict[str, Any], int, int]] = {
    "bert": (TEXT, SIZES, 2, 2),
    "roberta": (TEXT, SIZES, 2, 2),
    "electra": (TEXT, {**SIZES, "embedding_size": 32}, 2, 2),
    "distilbert": (TEXT, DISTILBERT, 2, 0),
    "gpt2": (TEXT, {"n_embd": 32, "n_layer": 2, "n_head": 4}, 2, 2),
    "llama": (TEXT, {**SIZES, "num_key_value_heads": 4}, 2, 2),
    "vit": (IMAGE, {**SIZES, "patch_size": 8}, 2, 0),
    "deberta": (TEXT, DEBERTA, 2, 2),
    "deberta-v2": (TEXT, DEBERTA, 2, 2),
    "swin": (IMAGE, SWIN, 2, 0),
    "swinv2": (IMAGE, SWIN, 2, 2),
    "beit": (IMAGE, {**SIZES, "patch_size": 8, "use_relative_position_bias": True}, 2, 0),
    "mpnet": (TEXT, SIZES, 1, 2),  # from here on all layers share a bias for each head
    "t5": (TEXT, T5, 1, 0),
    "mt5": (TEXT, T5, 1, 2),
    "data2vec-vision": (IMAGE, {**SIZES, "patch_size": 8, "use_shared_relative_position_bias": True}, 1, 2),
}
TAGGERS = ("t5", "mt5")  # their classifiers want the end of the text as a token


@pytest.fixture(autouse=True)
def _one_thread(cannot: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    if find_spec("transformers") is None:
        cannot("transformers is not installed")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def make(kind: str, **args: Any) -> Model:
    """As trained: no bias is all zeros."""
    inputs, sizes, *_ = KINDS.get(kind, (TEXT, {}))
    config = ExternalConfig(family="external", name=f"hf:{kind}", args={**sizes, **args})
    model = new_model(config, inputs, Outputs(5, form="steps" if kind in TAGGERS else "vector"), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return Model(model.module.eval(), model.structure)


def fewer(model: Model, importance: str = "magnitude", **args: Any) -> Model:
    """Half as wide."""
    inputs = model.structure.inputs
    tags = model.structure.outputs.form == "steps"
    x = inputs.example(8)
    target = "tags" if tags else "class"
    spec = DataSpec("made-up", x.shape[1:], tuple("abcde"), (), (), "0", inputs.kind, target, vocabulary=40)
    stage = PruneConfig.model_validate({"ratio": 0.5, "round_to": 4, "importance": importance, **args})
    y = x % 5 if tags else torch.arange(8) % 5
    config = Config.model_validate({"task": {"name": "tagging" if tags else "classification"}})
    batches = iter([Batch(x, y, torch.arange(8))])
    return prune_model(model, stage, batches, task_fn=lambda module: task_around(module, config, spec))


def groups_of(module: nn.Module, inputs: Inputs, which: str) -> list[Group]:
    heads, mlps, _ = library_groups(module, inputs)
    return heads if which == "heads" else mlps


@torch.no_grad()
def unread(module: nn.Module, inputs: Inputs, which: str, channels: list[int]) -> nn.Module:
    """A copy in which nothing reads these channels of each group."""
    copied = copy.deepcopy(module)
    for cut in (cut for group in groups_of(copied, inputs, which) for cut in group.cuts if cut.reads):
        cut.module.get_parameter(cut.name).index_fill_(cut.dim, cut.index[channels].flatten(), 0.0)
    return copied


@pytest.mark.parametrize("which", ["heads", "mlps"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_model_without_channels_computes_what_it_does_where_nothing_reads_them(kind: str, which: str) -> None:
    model = make(kind)
    inputs = model.structure.inputs
    module, x = model.module.double(), inputs.example(4)
    x = x.double() if x.is_floating_point() else x
    channels = [0, 2]
    expected = unread(module, inputs, which, channels)(x)
    groups = groups_of(module, inputs, which)
    assert len(groups) == KINDS[kind][2 if which == "heads" else 3]
    assert not groups or (expected - module(x)).abs().max() > 1e-3  # what goes had been read
    for group in groups:
        group.remove_(channels)
    torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
@pytest.mark.parametrize("kind", KINDS)
def test_half_of_heads_and_mlps_go_and_the_rest_comes_back(kind: str, importance: str, tmp_path: Path) -> None:
    model = make(kind)
    inputs = model.structure.inputs
    small = fewer(model, importance)
    for which in ("heads", "mlps"):
        of = [groups_of(module, inputs, which) for module in (model.module, small.module)]
        for before, after in zip(*of, strict=True):
            assert len(after.cuts[-1].index) == len(before.cuts[-1].index) / 2
    save_model(small, tmp_path)
    x = inputs.example(3)
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

    assert obstacle(make("bert").module, head_groups, TEXT) == ""
    assert "RuntimeError: The size of tensor a (3)" in obstacle(Biased(make("bert").module), head_groups, TEXT)
    fewer(make("bloom", hidden_size=32, n_layer=2, n_head=4))  # the slopes of its positions come from its config
    assert "only hidden widths are pruned" in (said := capfd.readouterr().out)
    assert "heads stay: a copy without the first of each fails (RuntimeError: The expanded size" in said
    fewer(make("xlnet", d_model=32, n_layer=2, n_head=4, d_inner=64))
    assert "heads stay: none is of a kind that is known" in capfd.readouterr().out


def test_layers_that_share_a_bias_for_each_head_lose_the_same_heads() -> None:
    """Also where each could lose heads of its own, as long as all lose as many: here the first tells the second."""
    model = make("t5")
    heads, _, why = library_groups(model.module, TEXT)
    layers = [name for name, _ in model.module.named_modules() if name.endswith("SelfAttention")]
    assert (len(layers), len(heads), why) == (2, 1, "")
    assert "RuntimeError" in obstacle(model.module, head_groups, TEXT)
    assert obstacle(model.module, stack_head_groups, TEXT) == ""
    table = model.module.get_parameter(f"{layers[0]}.relative_attention_bias.weight")
    with torch.no_grad():
        for cut in heads[0].cuts:
            cut.module.get_parameter(cut.name).index_fill_(cut.dim, cut.index[[1, 3]].flatten(), 1e-4)
    small = fewer(model).module
    assert torch.equal(small.get_parameter(f"{layers[0]}.relative_attention_bias.weight"), table[:, [0, 2]])
    for name in layers:
        before, after = (module.get_parameter(f"{name}.v.weight") for module in (model.module, small))
        assert torch.equal(after, before.view(4, 8, 32)[[0, 2]].flatten(0, 1))


def test_heads_whose_keys_are_those_of_positions_too_go(tmp_path: Path) -> None:
    """As those of DeBERTa-v3, which says so in its config."""
    settings = {**DEBERTA, "vocab_size": 40, "share_att_key": True, "position_buckets": 8, "type_vocab_size": 0}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "deberta-v2", "pad_token_id": 0, **settings}))
    model = new_model(ExternalConfig(family="external", name=f"hf:{tmp_path}"), TEXT, Outputs(5), seed=1)
    assert not any("pos_key_proj" in name for name, _ in model.module.named_modules())
    small = fewer(model)
    assert [len(group.cuts[-1].index) for group in head_groups(small.module)] == [2, 2]


def test_a_bias_that_is_still_zero_hides_nothing() -> None:
    """A fresh Swin has biases of zeros, so that any heads of them could go."""

    class Flipped(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tables = [p for name, p in self.model.named_parameters() if name.endswith("relative_position_bias_table")]
            outputs: torch.Tensor = self.model(x)
            return outputs + sum(table[:, -1].sum() - table[:, 0].sum() for table in tables)

    config = ExternalConfig(family="external", name="hf:swin", args=SWIN)
    fresh = new_model(config, IMAGE, Outputs(5), seed=1).module.eval()
    assert not any(p.any() for name, p in fresh.named_parameters() if name.endswith("relative_position_bias_table"))
    assert obstacle(fresh, head_groups, IMAGE) == ""
    assert obstacle(Flipped(fresh), head_groups, IMAGE) == "a copy without the first of each gives other outputs"


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

    assert "gives other outputs" in obstacle(Twice(make("bert").module), head_groups, TEXT)


def test_gradients_count_also_where_the_whole_cannot_be_pruned() -> None:
    model = make("gpt_neox", **SIZES)
    by = {importance: fewer(model, importance) for importance in ("magnitude", "taylor")}
    widths = {importance: small.module.state_dict() for importance, small in by.items()}
    name = next(name for name in widths["taylor"] if name.endswith("dense_h_to_4h.weight"))
    assert widths["taylor"][name].shape == (32, 32)
    assert not torch.equal(widths["taylor"][name], widths["magnitude"][name])


def test_heads_that_share_keys_stay() -> None:
    small = fewer(make("qwen2", **SIZES, num_key_value_heads=2))
    assert not list(head_groups(small.module))
    assert [group.cuts[-1].index.shape for group in mlp_groups(small.module)] == [(32, 1), (32, 1)]
