"""Saved models: exact again after loading, and refused with a reason where they are damaged or foreign."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from scaledl.compress.prune import prune_model
from scaledl.config.registry import FAMILIES
from scaledl.config.schema import MLPConfig, PruneConfig, ResNetConfig
from scaledl.errors import UsageError
from scaledl.models.structure import Model, Structure, build, load_model, new_model, resize_change, save_model
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.unit

RESNET = ResNetConfig(family="resnet", depth=8, width=8)
MLP = MLPConfig(family="mlp", hidden=[16, 12])
IN_SHAPE = (1, 8, 8)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make(config: Any = RESNET, in_shape: tuple[int, ...] = IN_SHAPE) -> Model:
    model = new_model(config, in_shape, 10, seed=1)
    model.module.train()(
        torch.randn(8, *in_shape, generator=torch.Generator().manual_seed(4))
    )  # BatchNorm statistics that are not the initial ones
    return Model(model.module.eval(), model.structure)


def outputs(model: Model) -> torch.Tensor:
    x = torch.randn(5, *model.structure.inputs.shape, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        return model.module(x)


def pruned(model: Model, ratio: float = 0.5) -> Model:
    return prune_model(model, PruneConfig(ratio=ratio, round_to=2), iter(()))


@pytest.mark.parametrize("config", [RESNET, MLP], ids=["resnet", "mlp"])
def test_a_saved_model_comes_back_bit_for_bit(config: Any, tmp_path: Path) -> None:
    model = make(config)
    assert save_model(model, tmp_path) == ["structure.json", "weights.safetensors"]
    loaded = load_model(tmp_path)
    assert loaded.structure == model.structure
    assert not loaded.module.training
    assert torch.equal(outputs(loaded), outputs(model))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["structure.json", "weights.safetensors"]


@pytest.mark.parametrize("config", [RESNET, MLP], ids=["resnet", "mlp"])
def test_a_model_pruned_twice_comes_back_bit_for_bit(config: Any, tmp_path: Path) -> None:
    model = pruned(pruned(make(config)))
    assert [change["op"] for change in model.structure.history] == ["resize", "resize"]
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert torch.equal(outputs(loaded), outputs(model))
    sizes = [sum(p.numel() for p in m.module.parameters()) for m in (make(config), model, loaded)]
    assert sizes[1] == sizes[2] < sizes[0] / 4


def test_attributes_follow_the_shapes(tmp_path: Path) -> None:
    model = pruned(make())
    save_model(model, tmp_path)
    for name, module in load_model(tmp_path).module.named_modules():
        if isinstance(module, nn.Conv2d):
            assert (module.out_channels, module.in_channels) == tuple(module.weight.shape[:2]), name
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_features == len(module.running_mean), name


def test_a_deleted_block_is_replayed(tmp_path: Path) -> None:
    model = make(ResNetConfig(family="resnet", depth=14, width=4))
    model.module.stages[0][1] = nn.Identity()
    change = resize_change(model.structure, model.module)
    assert change["identities"] == ["stages.0.1"]
    shorter = Model(model.module, model.structure.then(change))
    save_model(shorter, tmp_path)
    assert torch.equal(outputs(load_model(tmp_path)), outputs(shorter))


def test_a_change_that_cannot_be_replayed_is_an_error() -> None:
    model = make()
    model.module.stages[0][0].relu1 = nn.GELU()
    with pytest.raises(ValueError, match=r"stages\.0\.0\.relu1 is a GELU and was a ReLU"):
        resize_change(model.structure, model.module)


def test_the_memory_format_survives(tmp_path: Path) -> None:
    model = make()
    model.module.to(memory_format=torch.channels_last)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path).module
    assert all(p.stride() == q.stride() for p, q in zip(loaded.parameters(), model.module.parameters(), strict=True))


def test_equal_models_are_equal_files(tmp_path: Path) -> None:
    contents = set()
    for attempt in range(6):
        save_model(pruned(make()), tmp_path / str(attempt))
        contents.add((tmp_path / str(attempt) / "weights.safetensors").read_bytes())
    assert len(contents) == 1


def test_new_models_depend_on_the_seed_alone() -> None:
    state = torch.get_rng_state()
    first, other = make(), new_model(RESNET, IN_SHAPE, 10, seed=2)
    build(first.structure)
    torch.set_rng_state(state)
    again = new_model(RESNET, IN_SHAPE, 10, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(again.module.head.weight, first.module.head.weight)
    assert not torch.equal(other.module.head.weight, first.module.head.weight)


def test_a_contradicting_class_count_is_refused() -> None:
    with pytest.raises(UsageError, match=r"model.num_classes: got 7, the data has 10"):
        new_model(ResNetConfig(family="resnet", depth=8, num_classes=7), IN_SHAPE, 10, seed=0)


def test_structure_json_round_trip() -> None:
    structure = pruned(make()).structure
    assert Structure.from_json(json.loads(json.dumps(structure.to_json()))) == structure


# Damage and foreign files: every case is one UsageError that names the file.


def edit_structure(directory: Path, **changes: Any) -> None:
    path = directory / "structure.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(directory / "weights.safetensors")
    change(tensors)
    save_file(tensors, directory / "weights.safetensors")


def saved(directory: Path) -> Path:
    save_model(pruned(make()), directory)
    return directory


STRUCTURE_CASES = {
    "another schema": ({"schema_version": 99}, "schema_version is 99"),
    "unknown family": ({"family": "resnest"}, "unknown model family 'resnest'.*mlp, resnet"),
    "import path": ({"family": "os.path:join"}, r"refused unless.*--trust"),
    "external name": ({"family": "timm:resnet18"}, r"refused unless.*--trust"),
    "config of another family": ({"config": {"family": "mlp", "hidden": [4]}}, "config.family is 'mlp'"),
    "wrong config": ({"config": {"family": "resnet", "depth": 9}}, "depth"),
    "unknown change": ({"history": [{"op": "exec"}]}, "unknown structure change 'exec'"),
    "change without op": ({"history": [{}]}, "unknown structure change"),
    "history is no list": ({"history": "x"}, "history"),
    "half a change": ({"history": [{"op": "resize"}]}, "cannot be built"),
    "other input": ({"inputs": {"kind": "image", "shape": [3, 8, 8]}}, "stem.0.weight"),
    "no input": ({"inputs": {"kind": "image", "shape": []}}, r"image inputs cannot have the shape \[\]"),
    "inputs of another kind": ({"inputs": {"kind": "table", "shape": [8]}}, r"has the shape \[8\]; allowed: images"),
    "other classes": ({"outputs": {"count": 11}}, "head.weight"),
    "a field too many": ({"in_shape": [1, 8, 8]}, "in_shape"),
    "far too large": ({"config": {"family": "resnet", "depth": 50, "width": 1024}, "history": []}, "bytes of tensors"),
    "history forgotten": ({"history": []}, "bytes of tensors"),
}


@pytest.mark.parametrize("case", STRUCTURE_CASES)
def test_a_wrong_structure_is_refused(case: str, tmp_path: Path) -> None:
    changes, message = STRUCTURE_CASES[case]
    save_model(pruned(make()) if case == "history forgotten" else make(), tmp_path)
    edit_structure(tmp_path, **changes)
    with pytest.raises(UsageError, match=f"(?s){tmp_path}.*{message}"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "attributes",
    [{"forward": 1}, {"training": True}, {"out_channels": "8"}, {"__class__": "x"}, {"nowhere": 1}],
    ids=str,
)
def test_a_change_can_only_set_what_a_layer_has(attributes: dict[str, Any], tmp_path: Path) -> None:
    history = [{"op": "resize", "attributes": {"stem.0": attributes}, "identities": [], "shapes": {}}]
    save_model(make(), tmp_path)
    edit_structure(tmp_path, history=history)
    with pytest.raises(UsageError, match=r"stem\.0\.\w+ cannot be set"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"not json", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"schema_version": 1}'], ids=repr
)
def test_a_structure_file_with_other_content_is_refused(content: bytes, tmp_path: Path) -> None:
    (saved(tmp_path) / "structure.json").write_bytes(content)
    with pytest.raises(UsageError, match=str(tmp_path / "structure.json")):
        load_model(tmp_path)


TENSOR_CASES: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "missing": (lambda t: t.pop("head.bias"), r"1 missing \(head.bias\)"),
    "extra": (lambda t: t.update(surplus=torch.zeros(1)), r"1 unexpected \(surplus\)"),
    "shape": (lambda t: t.update({"head.bias": torch.zeros(11)}), "size mismatch for head.bias"),
    "dtype": (lambda t: t.update({"head.bias": t["head.bias"].double()}), "head.bias is torch.float64"),
    "nan": (lambda t: t["head.bias"].fill_(float("nan")), "head.bias contains NaN"),
    "infinite": (lambda t: t["head.bias"].fill_(float("inf")), "head.bias contains NaN or inf"),
    "nan statistics": (lambda t: t["stem.1.running_mean"].fill_(float("nan")), "stem.1.running_mean contains NaN"),
}


@pytest.mark.parametrize("case", TENSOR_CASES)
def test_tensors_that_do_not_fit_are_refused(case: str, tmp_path: Path) -> None:
    change, message = TENSOR_CASES[case]
    edit_tensors(saved(tmp_path), change)
    with pytest.raises(UsageError, match=f"weights.safetensors.*{message}"):
        load_model(tmp_path)


def with_header(header: bytes, length: int | None = None) -> Callable[[bytes], bytes]:
    size = (len(header) if length is None else length) % 2**64
    return lambda content: size.to_bytes(8, "little") + header + content[-4096:]


FILE_CASES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[:-1],
    "half": lambda content: content[: len(content) // 2],
    "text": lambda content: b"hello, this is text and no tensor file",
    "zip": lambda content: b"PK\x03\x04" + bytes(200),
    "header of 2**63": with_header(b"{}", 2**63),
    "out of range": with_header(b'{"a":{"dtype":"F32","shape":[9999],"data_offsets":[0,39996]}}'),
    "overlapping": with_header(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}'
    ),
    "negative shape": with_header(b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}'),
    "pickle": lambda content: b"\x80\x04cposix\nsystem\n(S'touch marker'\ntR.",
}


@pytest.mark.parametrize("case", FILE_CASES)
def test_a_damaged_weights_file_is_refused(case: str, tmp_path: Path) -> None:
    path = saved(tmp_path) / "weights.safetensors"
    path.write_bytes(FILE_CASES[case](path.read_bytes()))
    with pytest.raises(UsageError, match=r"weights\.safetensors"):
        load_model(tmp_path)
    assert not (tmp_path / "marker").exists()
    assert not Path("marker").exists()


@pytest.mark.parametrize("name", ["structure.json", "weights.safetensors"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    (saved(tmp_path) / name).unlink()
    with pytest.raises(UsageError, match=f"{name}: no such file"):
        load_model(tmp_path)


def test_an_import_path_loads_when_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_models.py").write_text(
        "from torch import nn\n"
        "def build(config, inputs, outputs):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(config['width'], outputs.count))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    structure = Structure("their_models:build", {"width": 64}, Inputs.of(IN_SHAPE), Outputs(10))
    model = Model(build(structure, trust=True).eval(), structure)
    save_model(model, tmp_path / "model")
    with pytest.raises(UsageError, match="--trust"):
        load_model(tmp_path / "model")
    assert torch.equal(outputs(load_model(tmp_path / "model", trust=True)), outputs(model))


def test_no_registered_family_could_be_taken_for_an_import_path() -> None:
    assert not [name for name in FAMILIES.names() if ":" in name or "." in name]
