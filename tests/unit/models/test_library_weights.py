"""Weights of the libraries without a network: from their caches, or a message at once."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from scaledl.config.schema import ExternalConfig
from scaledl.errors import UsageError
from scaledl.models import huggingface
from scaledl.models.pretrained import Report
from scaledl.models.sources import begin_with_
from scaledl.models.structure import Model, new_model
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.unit

IMAGE, TEXT = Inputs("image", (3, 32, 32)), Inputs("text", (12,), vocabulary=40)
TIMM, TORCHVISION, HF = "mobilenetv3_small_050", "shufflenet_v2_x0_5", "someone/tiny"
SECONDS = 0.3
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(params=["refuses", "says nothing"], autouse=True)
def _no_network(
    request: pytest.FixtureRequest, cannot: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Nothing listens where the libraries ask, or nobody answers; and their caches are empty folders."""
    for module in ("timm", "torchvision", "transformers"):
        if find_spec(module) is None:
            cannot(f"{module} is not installed")
    torch.set_num_threads(1)
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # as deepspeed does, which transformers imports to save
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if request.param == "says nothing":
            silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("https_proxy", address)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface, "SECONDS", SECONDS)
        yield


def cached(tmp_path: Path, repository: str) -> Path:
    """A repository of the hub as its cache has it."""
    folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text(COMMIT)
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    return snapshot


def begun(name: str, inputs: Inputs) -> tuple[Model, Report]:
    config = ExternalConfig(family="external", name=name)
    model = new_model(config, inputs, Outputs(4), seed=0)
    model, report, _ = begin_with_(
        *(model, name.partition(":")[0]), head="auto", labels=tuple("abcd"), root=Path("none"), seed=5
    )
    return model, report


def same(model: Model, names: Any, known: dict[str, torch.Tensor]) -> bool:
    state = model.module.state_dict()
    return len(names) > 15 and all(torch.equal(state[name], known[name]) for name in names)


def test_timm_s_from_the_cache_of_the_hub(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(1)
    theirs = timm.create_model(TIMM)
    save_file(theirs.state_dict(), cached(tmp_path, theirs.pretrained_cfg["hf_hub_id"]) / "model.safetensors")
    model, report = begun(f"timm:{TIMM}", IMAGE)
    assert set(report.replaced) == {"classifier.weight", "classifier.bias"}
    assert same(model, report.loaded, theirs.state_dict())


def test_torchvision_s_from_the_cache_of_torch(tmp_path: Path) -> None:
    from torchvision import models

    torch.manual_seed(1)
    theirs = models.get_model(TORCHVISION, weights=None)
    folder = tmp_path / "torch/hub/checkpoints"
    folder.mkdir(parents=True)
    path = folder / models.get_model_weights(TORCHVISION).DEFAULT.url.rpartition("/")[2]
    torch.save(theirs.state_dict(), path)
    model, report = begun(f"torchvision:{TORCHVISION}", IMAGE)
    assert set(report.replaced) == {"fc.weight", "fc.bias"}
    assert same(model, report.loaded, theirs.state_dict())
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UsageError, match=f"weights of torchvision:{TORCHVISION} cannot be had"):
        begun(f"torchvision:{TORCHVISION}", IMAGE)


@pytest.mark.parametrize("by", ["cache", "folder"])
def test_hugging_face_s_from_the_cache_of_the_hub_or_a_folder(by: str, tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(1)
    theirs = BertForSequenceClassification(BertConfig(vocab_size=40, max_position_embeddings=16, num_labels=3, **SIZES))
    folder = cached(tmp_path, HF) if by == "cache" else tmp_path / "tiny"
    theirs.save_pretrained(folder)
    model, report = begun(f"hf:{HF if by == 'cache' else folder}", TEXT)
    assert set(report.replaced) == {"model.classifier.weight", "model.classifier.bias"}
    assert same(model, report.loaded, {f"model.{name}": value for name, value in theirs.state_dict().items()})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"timm:{TIMM}", r"model\.pretrained: got timm, and .* cannot be had: .*; allowed: .*; fix: .* fill HF_HOME"),
        (f"torchvision:{TORCHVISION}", r"model\.pretrained: got torchvision, .*; allowed: .*; fix: .* fill TORCH_HOME"),
        (f"hf:{HF}", r"model\.name: got hf:someone/tiny; allowed: .*; fix: .* HF_HOME, or a folder"),
    ],
)
def test_without_a_cache_the_message_comes_at_once(name: str, message: str) -> None:
    inputs = TEXT if name.startswith("hf") else IMAGE
    new_model(ExternalConfig(family="external", name=name if inputs is IMAGE else "hf:bert"), inputs, Outputs(4), 0)
    began = time.monotonic()
    with pytest.raises(UsageError, match=message) as caught:
        begun(name, inputs)
    assert time.monotonic() - began < 10
    assert caught.value.exit_code == 2
    assert socket.getdefaulttimeout() is None


def test_weights_that_are_not_beside_their_config_are_missed_at_once(tmp_path: Path) -> None:
    from transformers import BertConfig

    BertConfig(vocab_size=40, max_position_embeddings=16, **SIZES).save_pretrained(cached(tmp_path, HF))
    with pytest.raises(UsageError, match=r"model\.pretrained: got hf, and the weights of hf:someone/tiny cannot be"):
        begun(f"hf:{HF}", TEXT)
