"""Models of other libraries: built for inputs and outputs, saved whole, refused with a reason."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scaledl.compress.prune import prune_model
from scaledl.config import load_config
from scaledl.config.schema import ExternalConfig, PruneConfig
from scaledl.errors import UsageError
from scaledl.models.quantized import prepare_ptq
from scaledl.models.structure import Model, load_model, new_model, save_model
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.unit

IMAGE = Inputs("image", (1, 32, 32))
TEXT = Inputs("text", (12,), vocabulary=40)
BERT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
VIT = {"img_size": 32, "patch_size": 16, "depth": 1, "embed_dim": 48, "num_heads": 2}
CASES: dict[str, tuple[str, dict[str, Any], Inputs, Outputs]] = {
    "timm convolutions": ("timm:mobilenetv3_small_050", {}, IMAGE, Outputs(5)),
    "timm transformer": ("timm:vit_tiny_patch16_224", VIT, IMAGE, Outputs(5)),
    "torchvision": ("torchvision:squeezenet1_1", {}, IMAGE, Outputs(5)),
    "hf classes": ("hf:bert", BERT, TEXT, Outputs(5)),
    "hf tags": ("hf:bert", BERT, TEXT, Outputs(3, "steps")),
    "hf tokens, masked": ("hf:bert", BERT, TEXT, Outputs(40, "steps")),
    "hf tokens, causal": ("hf:gpt2", {"n_embd": 16, "n_layer": 1, "n_head": 2}, TEXT, Outputs(40, "steps")),
    "hf images": ("hf:vit", {**BERT, "patch_size": 16}, IMAGE, Outputs(5)),
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _libraries(cannot: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("timm", "torchvision", "transformers"):
        if find_spec(module) is None:
            cannot(f"{module} is not installed")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def make(name: str, args: dict[str, Any], inputs: Inputs, outputs: Outputs) -> Model:
    model = new_model(ExternalConfig(family="external", name=name, args=args), inputs, outputs, seed=1)
    return Model(model.module.eval(), model.structure)


@pytest.mark.parametrize("case", CASES)
def test_a_saved_model_comes_back_bit_for_bit_without_its_library_s_files(case: str, tmp_path: Path) -> None:
    name, args, inputs, outputs = CASES[case]
    model = make(name, args, inputs, outputs)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    x = inputs.example(3)
    with torch.inference_mode():
        expected = model.module(x)
        assert torch.equal(loaded.module(x), expected)
    assert expected.shape == (3, *outputs.shape(inputs))
    assert loaded.structure == model.structure


def test_padding_changes_nothing() -> None:
    module = make(*CASES["hf classes"]).module
    short = TEXT.example(2)[:, :7]
    padded = torch.cat([short, torch.zeros(2, 5, dtype=torch.int64)], dim=1)
    with torch.inference_mode():
        torch.testing.assert_close(module(padded), module(short), atol=1e-6, rtol=1e-5)


def test_a_folder_s_architecture_becomes_part_of_the_model(tmp_path: Path) -> None:
    from transformers import BertConfig

    folder = tmp_path / "tiny"
    BertConfig(vocab_size=60, max_position_embeddings=16, pad_token_id=0, **BERT).save_pretrained(folder)
    model = make(f"hf:{folder}", {"num_hidden_layers": 2}, TEXT, Outputs(5))
    assert model.structure.config["architecture"]["num_hidden_layers"] == 2
    assert model.structure.config["architecture"]["vocab_size"] == 60
    save_model(model, tmp_path / "model")
    (folder / "config.json").unlink()
    assert load_model(tmp_path / "model").structure == model.structure


BAD = {
    "unknown name": ("timm:resnt18", {}, IMAGE, Outputs(5), "did you mean 'timm:resnet18'"),
    "a hub behind timm": ("timm:hf-hub:org/name", {}, IMAGE, Outputs(5), "timm has no model"),
    "weights": ("timm:resnet18", {"pretrained": True}, IMAGE, Outputs(5), "set model.pretrained=timm"),
    "a file": ("timm:resnet18", {"checkpoint_path": "x.pth"}, IMAGE, Outputs(5), "set model.pretrained=timm"),
    "arguments": ("timm:resnet18", {"nose": 1}, IMAGE, Outputs(5), "model.args: timm:resnet18 cannot be made"),
    "size": ("timm:vit_tiny_patch16_224", {"depth": 1}, IMAGE, Outputs(5), r"cannot take inputs \[1, 32, 32\]"),
    "a text for images": ("timm:resnet18", {}, TEXT, Outputs(5), "is a model for images"),
    "no pixels": ("torchvision:resnet18", {}, IMAGE, Outputs(5, "pixels"), "the task needs pixels"),
    "no such kind": ("hf:nosuchkind", {}, TEXT, Outputs(5), "a folder with config.json, or a kind of model"),
    "no such setting": ("hf:bert", {"nose": 1}, TEXT, Outputs(5), "got nose; allowed: settings of BertConfig"),
    "too long": ("hf:bert", {**BERT, "max_position_embeddings": 8}, TEXT, Outputs(5), r"cannot take inputs \[12\]"),
    "other padding": (
        "hf:bert",
        {**BERT, "pad_token_id": 1},
        TEXT,
        Outputs(5),
        "pads with token 1, and the",
    ),
    "few tokens": ("hf:bert", {**BERT, "vocab_size": 30}, TEXT, Outputs(5), "knows 30 tokens and the data has 40"),
    "no module": ("os.path:join", {"a": "x"}, IMAGE, Outputs(5), "gives a str; allowed: a torch.nn.Module"),
    "no such code": ("no.such:Net", {}, IMAGE, Outputs(5), "cannot be imported"),
    "other outputs": ("torch.nn:Flatten", {}, IMAGE, Outputs(5), r"gives \[2, 1024\] .* needs a tensor \[2, 5\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused(case: str) -> None:
    name, args, inputs, outputs, message = BAD[case]
    with pytest.raises(UsageError, match=message):
        make(name, args, inputs, outputs)


OWN = """
from torch import nn

class Net(nn.Module):
    def __init__(self, in_channels, num_classes, width=4):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))
"""


def test_a_class_of_one_s_own_is_told_of_inputs_and_outputs_and_needs_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_net_for_test.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    model = make("own_net_for_test:Net", {"width": 8}, IMAGE, Outputs(5))
    try:
        assert (model.module.conv.in_channels, model.module.head.in_features, model.module.head.out_features) == (
            1,
            8,
            5,
        )
        save_model(model, tmp_path / "model")
        sys.modules.pop("own_net_for_test")
        with pytest.raises(UsageError, match=r"own_net_for_test:Net.*--trust"):
            load_model(tmp_path / "model")
        assert "own_net_for_test" not in sys.modules
        x = IMAGE.example(2)
        assert torch.equal(load_model(tmp_path / "model", trust=True).module(x), model.module(x))
    finally:
        sys.modules.pop("own_net_for_test", None)


def test_a_saved_structure_cannot_name_files(tmp_path: Path) -> None:
    save_model(make(*CASES["timm convolutions"]), tmp_path)
    path = tmp_path / "structure.json"
    content = json.loads(path.read_text())
    content["config"]["args"] = {"checkpoint_path": "/tmp/evil.pth"}
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="got checkpoint_path"):
        load_model(tmp_path)


def test_kernels_and_code_of_the_hub_are_not_taken_from_a_structure() -> None:
    model = make(*CASES["hf classes"])
    architecture = {
        **model.structure.config["architecture"],
        "_attn_implementation": "org/kernel",
        "auto_map": {"a": "b"},
    }
    config = ExternalConfig(family="external", name="hf:bert", architecture=architecture)
    again = new_model(config, TEXT, Outputs(5), seed=1)
    assert not hasattr(again.module.model.config, "auto_map")
    assert again.module.model.config._attn_implementation in ("sdpa", "eager")


def test_the_config_is_checked_without_the_libraries() -> None:
    with pytest.raises(UsageError, match=r"model.name .*got 'resnet18'; allowed: timm:NAME, torchvision:NAME"):
        load_config(None, ["model.family=external", "model.name=resnet18"])
    config = load_config(None, ["model.family=external", "model.name=timm:x", "model.args.img_size=32"])
    assert config.model.args == {"img_size": 32}


@torch.no_grad()
def silence_(groups: tuple[Any, ...]) -> None:
    """Zero the channels that are to go, where they are made."""
    for group in groups:
        for dep, indices in group:
            if "out_channels" in dep.handler.__name__ and isinstance(dep.target.module, nn.Linear):
                dep.target.module.weight[indices] = 0
                dep.target.module.bias[indices] = 0


def test_heads_of_attention_shrink_and_the_scores_stay() -> None:
    """The fused kernel and the plain path scale by other numbers: both must give what silenced channels gave."""
    from scaledl.compress.prune import plan_pruning

    model = make("timm:vit_tiny_patch16_224", {**VIT, "embed_dim": 64}, IMAGE, Outputs(5))
    attention = model.module.blocks[0].attn
    torch.nn.init.normal_(attention.qkv.bias)
    x = IMAGE.example(4)
    plan = plan_pruning(model.module, IMAGE, PruneConfig(ratio=0.5, round_to=8))
    inner = [group for group in plan.chosen if group[0].dep.target.module is attention.proj]
    assert len(inner) == 1
    silence_(tuple(inner))
    with torch.inference_mode():
        expected = model.module(x)
    type(plan)(model.module, tuple(inner), 0).execute_()
    assert (attention.head_dim, attention.qkv.out_features, attention.proj.in_features) == (16, 96, 32)
    for fused in (True, False):
        attention.fused_attn = fused
        with torch.inference_mode():
            torch.testing.assert_close(model.module(x), expected, atol=1e-6, rtol=1e-5)


PRUNED = {
    "timm transformer": (("timm:vit_tiny_patch16_224", {**VIT, "embed_dim": 64}, IMAGE, Outputs(5)), 0.45, ""),
    "shufflenet": (("torchvision:shufflenet_v2_x0_5", {}, IMAGE, Outputs(5)), 0.9, "cannot be pruned (ZeroDivision"),
    "other attention": (("hf:bert", BERT, TEXT, Outputs(5)), 0.95, "attention of its own kind"),
    "conv1d": (("hf:gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 2}, TEXT, Outputs(5)), 0.95, "attention of its own"),
}


@pytest.mark.parametrize("case", PRUNED)
def test_what_can_be_pruned_is_pruned_and_comes_back(
    case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments, most, said = PRUNED[case]
    model = make(*arguments)
    small = prune_model(model, PruneConfig(ratio=0.5, round_to=4), iter(()))
    counts = [sum(p.numel() for p in m.module.parameters()) for m in (small, model)]
    assert counts[0] < most * counts[1]
    assert said in capfd.readouterr().out
    save_model(small, tmp_path)
    x = arguments[2].example(3)
    with torch.inference_mode():
        assert torch.equal(load_model(tmp_path).module(x), small.module(x))


def test_nothing_to_prune_is_said() -> None:
    args = {"n_layer": 1, "n_head": 1, "n_embd": 16}
    model = make("hf:gpt2", args, TEXT, Outputs(5))
    model.module.set_submodule("model.transformer.h.0.mlp", nn.Identity())
    with pytest.raises(UsageError, match="no hidden width is found"):
        prune_model(model, PruneConfig(), iter(()))


class BatchStatistics(nn.Module):
    """Norm by a function, with `training` as it is while it is traced."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)
        self.head = nn.Linear(1, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((2, 3))
        norm = self.norm
        mean = nn.functional.batch_norm(mean, norm.running_mean, norm.running_var, training=self.training)
        outputs: torch.Tensor = self.head(mean)
        return outputs


def test_int8_with_the_statistics_of_each_batch_is_refused() -> None:
    model = make(f"{__name__}:BatchStatistics", {}, IMAGE, Outputs(5))
    with pytest.raises(UsageError, match="goes on taking its statistics from each batch"):
        prepare_ptq(model, "x86")


@pytest.mark.parametrize("padding", [0, -1, None])
@pytest.mark.parametrize("outputs", [Outputs(5), Outputs(40, "steps")])
def test_a_word_that_is_0_is_no_padding(padding: int | None, outputs: Outputs, tmp_path: Path) -> None:
    """Of a tokenizer without padding the last id is the word that was 0; some configs call that their padding."""
    from transformers import LlamaConfig

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    known = {"vocab_size": 39, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": padding}
    LlamaConfig(**sizes, **known, max_position_embeddings=16).save_pretrained(tmp_path)
    module = make(f"hf:{tmp_path}", {}, Inputs("text", (12,), vocabulary=40, moved=39), outputs).module
    ids = torch.tensor([[5, 39, 7, 8, 0, 0], [3, 4, 39, 5, 6, 7]])
    theirs = torch.tensor([[5, 0, 7, 8, 2, 2], [3, 4, 0, 5, 6, 7]])
    with torch.inference_mode():
        expected = module.model(input_ids=theirs, attention_mask=(ids != 0).long()).logits
        found = module(ids)
    if outputs.form == "vector":
        torch.testing.assert_close(found, expected)
    else:
        torch.testing.assert_close(found[:, 39], expected[..., 0])
        torch.testing.assert_close(found[:, 1:39], expected[..., 1:].mT)


def test_int8_of_a_model_that_takes_its_layers_apart_is_refused() -> None:
    sizes = {**BERT, "embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16}
    model = make("hf:mobilebert", sizes, TEXT, Outputs(40, "steps"))
    with pytest.raises(UsageError, match="computes with a layer's weights by itself"):
        prepare_ptq(model, "x86")
