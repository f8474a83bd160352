"""Weights to begin with: what is loaded, adapted, replaced and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file

from scaledl.compress.prune import prune_model
from scaledl.config import Config
from scaledl.config.schema import (
    CNNConfig,
    ExternalConfig,
    MLPConfig,
    ModelConfig,
    PruneConfig,
    ResNetConfig,
    TextConfig,
)
from scaledl.data.tokenizer import build_tokenizer
from scaledl.errors import UsageError
from scaledl.models.ends import first_names, head_names
from scaledl.models.pretrained import Report, with_channels
from scaledl.models.quantized import prepare_qat
from scaledl.models.run_tokenizer import keep_tokenizer
from scaledl.models.sources import begin_with_
from scaledl.models.structure import Model, new_model, save_model
from scaledl.run import Run
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.unit

RESNET = ResNetConfig(family="resnet", depth=8, width=8)
GREY, RGB = Inputs("image", (1, 12, 12)), Inputs("image", (3, 12, 12))
LABELS = ("a", "b", "c", "d")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make(config: Any = RESNET, inputs: Inputs = GREY, count: int = 4, seed: int = 0) -> Model:
    return new_model(config, inputs, Outputs(count), seed=seed)


def begin(model: Model, source: str, root: Path, *, head: str = "auto", labels: tuple[str, ...] = LABELS) -> Any:
    return begin_with_(model, source, head=head, labels=labels, root=root, seed=5)


def a_run(root: Path, model: Model, name: str = "source", labels: tuple[str, ...] = LABELS) -> Run:
    run = Run.create(root, name, "one", config=Config())
    with run.attempt():
        save_model(model, run.model_dir)
        (run.path / "evaluation.json").write_text(json.dumps({"labels": labels}))
        run.record("model")
        run.finish("complete")
    return run


def same(model: Model, other: Model, names: Any) -> bool:
    state, others = model.module.state_dict(), other.module.state_dict()
    return all(torch.equal(state[name], others[name]) for name in names)


def saved(model: Model, path: Path) -> str:
    state = {name: value.clone() for name, value in model.module.state_dict().items()}
    save_file(state, path) if path.suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    return str(path)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_a_file_fills_the_model_and_tells_so(name: str, tmp_path: Path) -> None:
    source = make(seed=1)
    model, report, run = begin(make(), saved(source, tmp_path / name), tmp_path)
    assert run is None
    assert set(report.loaded) == set(source.module.state_dict())
    assert not any((report.adapted, report.replaced, report.fresh, report.left))
    assert same(model, source, report.loaded)
    assert report.lines() == [f"begins with {tmp_path / name}: {len(report.loaded)} tensors loaded"]


def test_the_head_of_other_classes_begins_anew(tmp_path: Path) -> None:
    source = make(count=7, seed=1)
    fresh = make()
    model, report, _ = begin(make(), saved(source, tmp_path / "w.safetensors"), tmp_path)
    assert set(report.replaced) == {"head.weight", "head.bias"} == head_names(model.structure)
    assert same(model, fresh, report.replaced)
    assert same(model, source, report.loaded)
    with pytest.raises(UsageError, match=r"transfer\.head: got keep, and head\.weight is \[7, 32\] there"):
        begin(make(), str(tmp_path / "w.safetensors"), tmp_path, head="keep")


@pytest.mark.parametrize(
    ("labels", "head", "replaced"),
    [
        (LABELS, "auto", False),
        (("w", "x", "y", "z"), "auto", True),
        (("w", "x", "y", "z"), "keep", False),
        (LABELS, "replace", True),
    ],
)
def test_a_run_s_head_stays_only_for_the_same_classes(
    labels: tuple[str, ...], head: str, replaced: bool, tmp_path: Path
) -> None:
    a_run(tmp_path, make(seed=1), labels=labels)
    _, report, run = begin(make(), "source", tmp_path, head=head)
    assert run.label == "source/one"
    assert report.sha256 == run.as_parent().sha256
    assert (set(report.replaced) == {"head.weight", "head.bias"}) is replaced


@pytest.mark.parametrize(("before", "now"), [(RGB, GREY), (GREY, RGB)])
def test_the_first_convolution_takes_another_number_of_channels(before: Inputs, now: Inputs, tmp_path: Path) -> None:
    source = make(inputs=before, seed=1)
    model, report, _ = begin(make(inputs=now), saved(source, tmp_path / "w.safetensors"), tmp_path)
    assert report.adapted == ("stem.0.weight",)
    assert "stem.0.weight" in first_names(model.structure)
    # an image whose channels are all the same gives what it gave before
    x = torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    grey_as = {1: x, 3: x.expand(-1, 3, -1, -1)}
    with torch.inference_mode():
        ours = model.module.stem[0](grey_as[now.shape[0]])
        torch.testing.assert_close(ours, source.module.stem[0](grey_as[before.shape[0]]), atol=1e-6, rtol=1e-5)


def test_channels_are_adapted_as_timm_does(cannot: Callable[[str], None]) -> None:
    if find_spec("timm") is None:
        cannot("timm is not installed")
    from timm.models import adapt_input_conv

    weight = torch.randn(8, 3, 5, 5)
    for channels in (1, 2, 3, 4, 7):
        torch.testing.assert_close(with_channels(weight, channels), adapt_input_conv(channels, weight))


def test_what_is_flattened_cannot_be_adapted_and_begins_anew(tmp_path: Path) -> None:
    mlp = MLPConfig(family="mlp", hidden=[8, 8, 8])
    source = make(mlp, inputs=RGB, seed=1)
    model, report, _ = begin(make(mlp), saved(source, tmp_path / "w.safetensors"), tmp_path)
    assert report.replaced == ("hidden.0.weight",)
    assert same(model, make(mlp), report.replaced)


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone."])
def test_what_stands_before_all_names_does_not_count(prefix: str, tmp_path: Path) -> None:
    source = make(seed=1)
    state = {f"{prefix}{name}": value.clone() for name, value in source.module.state_dict().items()}
    save_file({**state, "extra": torch.ones(1)}, tmp_path / "w.safetensors")
    model, report, _ = begin(make(), str(tmp_path / "w.safetensors"), tmp_path)
    assert same(model, source, source.module.state_dict())
    assert report.left == ("extra",)
    assert "1 left (extra)" in report.lines()[0]


def test_a_pruned_run_gives_its_widths_along(tmp_path: Path) -> None:
    source = prune_model(make(count=7, seed=1), PruneConfig(round_to=2), iter(()))
    a_run(tmp_path, source, labels=tuple("abcdefg"))
    model, report, _ = begin(make(inputs=RGB), "source", tmp_path)
    assert same(model, source, report.loaded)
    assert set(report.replaced) == {"head.weight", "head.bias"}
    assert report.adapted == ("stem.0.weight",)
    head = model.module.head
    assert (head.in_features, head.out_features) == (source.module.head.in_features, 4)
    bound = head.in_features**-0.5
    assert 0 < float(head.weight.detach().abs().max()) <= bound  # as a new layer of that size begins
    save_model(model, tmp_path / "again")
    assert model.module(RGB.example(2)).shape == (2, 4)
    again, other, _ = begin(make(inputs=RGB), "source", tmp_path)
    assert same(again, model, other.replaced)


def test_a_quantized_run_is_refused(tmp_path: Path) -> None:
    a_run(tmp_path, prepare_qat(make(seed=1), "x86"))
    with pytest.raises(UsageError, match="is quantized; begin with the run that it was made from"):
        begin(make(), "source", tmp_path)


def test_other_models_are_refused_by_what_does_not_fit(tmp_path: Path) -> None:
    a_run(tmp_path, make(seed=1))
    deeper = ResNetConfig(family="resnet", depth=14, width=8)
    wider = ResNetConfig(family="resnet", depth=8, width=16)
    for config, message in (
        (deeper, r"it has \d+ of the \d+ tensors between first layer and head, and not stages.0.1"),
        (wider, r"stem.1.weight is \[8\] there and \[16\] here; .* \(\d+ in all\)"),
        (CNNConfig(family="cnn"), "model.family: got cnn, and the model of .* is a resnet"),
    ):
        with pytest.raises(UsageError, match=message):
            begin(make(config), "source", tmp_path)


class Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("/tmp/scaledl-was-executed"),)


def test_files_that_hold_more_than_tensors_are_refused_unexecuted(tmp_path: Path) -> None:
    Path("/tmp/scaledl-was-executed").unlink(missing_ok=True)
    torch.save({"state_dict": {"a": torch.ones(1)}, "more": Evil()}, tmp_path / "evil.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    state = dict(make().module.state_dict())
    state["head.weight"] = torch.full_like(state["head.weight"], float("nan"))
    torch.save(state, tmp_path / "nan.pt")
    (tmp_path / "weights.txt").write_text("no tensors")
    for name, message in (
        ("evil.pt", "holds more than tensors and plain values"),
        ("list.pt", "holds no tensors by name"),
        ("cut.safetensors", "not a whole safetensors file"),
        ("nan.pt", "head.weight contains NaN or infinite values"),
        ("none.pt", "no such file"),
        ("weights.txt", r"model.pretrained: got the file .*weights.txt; allowed: a run, or .* .safetensors"),
    ):
        with pytest.raises(UsageError, match=message):
            begin(make(), str(tmp_path / name), tmp_path)
    assert not Path("/tmp/scaledl-was-executed").exists()


def test_a_library_s_weights_are_for_its_models_only(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"got timm with model.family=resnet; allowed: .* model.name=timm:NAME"):
        begin(make(), "timm", tmp_path)


@pytest.fixture
def libraries(cannot: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("timm", "torchvision", "transformers"):
        if find_spec(module) is None:
            cannot(f"{module} is not installed")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("libraries")
def test_timm_s_weights_through_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's own loading, from a file that stands where the network's would."""
    import timm
    from timm.models import _builder

    name = "mobilenetv3_small_050"
    torch.manual_seed(0)
    theirs = timm.create_model(name)
    save_file(theirs.state_dict(), tmp_path / "timm.safetensors")
    find = _builder.resolve_pretrained_cfg

    def with_file(*args: Any, **kwargs: Any) -> Any:
        known = find(*args, **kwargs)
        known.file = str(tmp_path / "timm.safetensors")
        return known

    monkeypatch.setattr(_builder, "resolve_pretrained_cfg", with_file)
    config = ExternalConfig(family="external", name=f"timm:{name}")
    model, report, _ = begin(make(config, Inputs("image", (1, 32, 32))), "timm", tmp_path)
    assert set(report.replaced) == {"classifier.weight", "classifier.bias"}
    assert report.adapted == ("conv_stem.weight",)
    state, known = model.module.state_dict(), theirs.state_dict()
    assert all(torch.equal(state[key], known[key]) for key in report.loaded)
    torch.testing.assert_close(state["conv_stem.weight"], known["conv_stem.weight"].sum(1, keepdim=True))


@pytest.mark.usefixtures("libraries")
def test_a_bare_encoder_of_hugging_face_gets_a_head(tmp_path: Path) -> None:
    """As MiniLM's files are: the encoder alone, without the names of a model around it."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    encoder = BertModel(BertConfig(vocab_size=40, max_position_embeddings=16, **sizes), add_pooling_layer=False)
    encoder.save_pretrained(tmp_path / "tiny")
    config = ExternalConfig(family="external", name=f"hf:{tmp_path / 'tiny'}")
    model, report, _ = begin(make(config, Inputs("text", (12,), vocabulary=30)), "hf", tmp_path)
    assert "model.classifier.weight" in report.replaced
    assert not report.fresh
    known = encoder.state_dict()
    state = model.module.state_dict()
    loaded = [name for name in report.loaded if name.startswith("model.bert.")]
    assert len(loaded) > 15
    assert all(torch.equal(state[name], known[name.removeprefix("model.bert.")]) for name in loaded)
    kind = ExternalConfig(family="external", name="hf:bert", args=sizes)
    fresh = make(kind, Inputs("text", (12,), vocabulary=30))
    with pytest.raises(UsageError, match="hf:bert is a kind of model and has no weights"):
        begin(fresh, "hf", tmp_path)


def of_words(*texts: str) -> str:
    """The JSON of a tokenizer that knows these words."""
    return build_tokenizer(texts, TextConfig()).to_str()


@pytest.mark.parametrize("family", ["transformer", "gpt", "lstm"])
def test_embeddings_of_another_tokenizer_begin_anew(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known, other = of_words("red green blue"), of_words("red green pink")
    sizes = {"width": 8, "heads": 2, "layers": 1} if family != "lstm" else {"hidden": 8}
    config: Any = TypeAdapter(ModelConfig).validate_python({"family": family, **sizes})
    inputs, tokens = Inputs("text", (6,), vocabulary=5), Outputs(5, "steps")
    source = new_model(config, inputs, tokens, seed=0)
    run = a_run(tmp_path, source)
    keep_tokenizer(run.model_dir, known)

    def begun(tokenizer: str) -> tuple[set[str], str]:
        model = new_model(config, inputs, tokens, seed=1)
        options: dict[str, Any] = {"head": "auto", "labels": LABELS, "root": tmp_path, "seed": 5}
        _, report, _ = begin_with_(model, "source/one", tokenizer=tokenizer, **options)
        return set(report.replaced), capsys.readouterr().err

    assert begun(known) == (set(), "")
    replaced, said = begun(other)
    assert any("embed" in name for name in replaced)
    assert {name for name in replaced if "embed" not in name} <= {"head.weight", "head.bias"}
    assert f"to keep them: data.text.tokenizer={run.model_dir / 'tokenizer.json'}" in said


@pytest.mark.parametrize("steps", [4, 9])
def test_positions_of_other_lengths_are_kept(steps: int, tmp_path: Path) -> None:
    config: Any = TypeAdapter(ModelConfig).validate_python({"family": "gpt", "width": 8, "heads": 2, "layers": 1})
    source = new_model(config, Inputs("text", (6,), vocabulary=5), Outputs(5, "steps"), seed=0)
    a_run(tmp_path, source)
    fresh = new_model(config, Inputs("text", (steps,), vocabulary=5), Outputs(5, "steps"), seed=1)
    before = fresh.module.state_dict()["positions.table"].clone()
    model, report, _ = begin(fresh, "source/one", tmp_path)
    assert report.adapted == ("positions.table",)
    assert report.replaced == ()
    table, known = (one.module.state_dict()["positions.table"] for one in (model, source))
    both = min(steps, 6)
    assert torch.equal(table[:both], known[:both])
    assert torch.equal(table[both:], before[both:])


def test_a_run_that_is_not_there_is_told_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.pretrained: no run 'nose'"):
        begin(make(), "nose", tmp_path)


def test_reports_are_plain_json() -> None:
    report = Report("x", None, ("a",), (), ("b",), (), ())
    assert json.loads(json.dumps(report.to_json()))["replaced"] == ["b"]
    assert report.lines() == ["begins with x: 1 tensors loaded; 1 replaced (b)"]


def test_a_class_that_is_not_told_of_outputs_has_no_known_head() -> None:
    sizes = {"in_features": 4, "out_features": 4}
    config = ExternalConfig(family="external", name="torch.nn:Linear", args=sizes)
    assert head_names(make(config, Inputs("table", (4,))).structure) == frozenset()
