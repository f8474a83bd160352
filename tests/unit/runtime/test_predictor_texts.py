"""Files of models that take texts: raw texts, token ids, and what the file says of both."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scaledl.config.schema import DataConfig, ExportConfig
from scaledl.data import Arrays, DataModule
from scaledl.data.text import text_spec, tokenize
from scaledl.errors import UsageError
from scaledl.export import export_torchscript
from scaledl.export._verify_child import normalize
from scaledl.models.structure import Model, Structure
from scaledl.runtime import Predictor, load
from scaledl.runtime.artifact import read_cases, read_spec
from scaledl.runtime.signature import Outputs

pytestmark = pytest.mark.unit

TEXTS = [f"{['red', 'green', 'blue'][i % 3]} number {i}" for i in range(30)]


class BagOfTokens(nn.Module):
    """The mean of the tokens' vectors, then a linear layer."""

    def __init__(self, vocabulary: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 4, padding_idx=0)
        self.head = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embedding(x).mean(1))
        return logits


@pytest.fixture(scope="module")
def data() -> DataModule:
    parts = {"train": TEXTS[:20], "val": TEXTS[20:24], "test": TEXTS[24:]}
    found, tokenizer = tokenize(parts, DataConfig().text)
    splits = {
        split: Arrays(tokens, torch.arange(len(tokens)) % 3, torch.arange(len(tokens)))
        for split, tokens in found.items()
    }
    return DataModule(text_spec("texts", splits, ("a", "b", "c"), "class", tokenizer), **splits)


@pytest.fixture(scope="module")
def model(data: DataModule) -> Model:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = BagOfTokens(data.spec.vocabulary, 3).eval()
    return Model(module, Structure("bag", {}, data.spec.inputs, Outputs(3)))


@pytest.fixture(scope="module")
def path(model: Model, data: DataModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "model.ts"
    export_torchscript(model, data, path, config=ExportConfig(), source={"name": "small"})
    return path


@pytest.fixture(scope="module")
def predictor(path: Path) -> Predictor:
    return load(path)


def test_raw_texts_give_what_the_model_gave(predictor: Predictor, model: Model, data: DataModule) -> None:
    with torch.no_grad():
        expected = model.module(data.test.inputs.long())
    assert torch.allclose(predictor.predict(TEXTS[24:]), expected, atol=1e-6)
    assert torch.equal(predictor.tokens(TEXTS[24:]), data.test.inputs.long())
    for ids in (data.test.inputs, data.test.inputs.numpy(), data.test.inputs.tolist()):
        assert torch.equal(predictor.predict(ids), predictor.predict(TEXTS[24:]))
    assert torch.equal(predictor.predict(TEXTS[25]), predictor.predict([TEXTS[25]]))
    assert predictor.predict(np.array(TEXTS[24:26]).tolist()).shape == (2, 3)


def test_the_file_says_what_it_takes(path: Path, data: DataModule) -> None:
    content = path.read_bytes()
    spec = read_spec(content, path)
    assert spec.input.inputs == data.spec.inputs
    assert spec.input.tokenizer == data.spec.tokenizer
    length = data.spec.in_shape[0]
    assert spec.manifest["input"] == {
        "dtype": "int64",
        "layout": "NT",
        "shape": [length],
        "vocabulary": data.spec.vocabulary,
    }
    assert spec.manifest["preprocessing"]["from"] == {"dtype": "text", "layout": "N"}
    with zipfile.ZipFile(path) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("extra/tokenizer.json")]
        assert json.loads(archive.read(name))["model"]["type"] == "WordLevel"
    cases = read_cases(content, path)
    assert cases.inputs.dtype == torch.int32
    assert cases.inputs.shape[1:] == (length,)


def test_the_clean_process_takes_token_ids_as_they_are(path: Path, data: DataModule) -> None:
    manifest = read_spec(path.read_bytes(), path).manifest
    assert torch.equal(normalize(data.test.inputs, manifest), data.test.inputs.long())


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ([], "wanted texts, or token ids as whole numbers"),
        ([[1, 2]], r"got torch.int64 \[1, 2\]; wanted texts, or token ids as whole numbers \[N, 3\]"),
        (torch.zeros(2, 3), "got torch.float32"),
        ([[1, 2, 10_000]], "token ids run from 1 to 10000; wanted 0 to"),
        ([[1, 2, -1]], "token ids run from -1"),
        (["red", 5], "number 1 is a int; wanted a text"),
        (["red", "\ud800"], "number 1 has half of a surrogate pair at character 0"),
        (["red", " "], "number 1 is a text without a token"),
        (torch.zeros(0, 3, dtype=torch.int64), "got none; at least one is needed"),
    ],
)
def test_what_is_neither_is_refused(predictor: Predictor, inputs: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=f"inputs: .*{reason}"):
        predictor.predict(inputs)


def test_without_the_library_ids_still_work(path: Path, data: DataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, found = load(path), importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tokenizers" else found(name))
    assert predictor.predict(data.test.inputs).shape == (6, 3)
    with pytest.raises(UsageError, match=r"pip install 'scaledl\[models\]'"):
        predictor.predict(TEXTS)


def test_a_file_without_its_tokenizer_is_refused(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "model.ts"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w") as target:
        for info in source.infolist():
            if not info.filename.endswith("tokenizer.json"):
                target.writestr(info, source.read(info))
    with pytest.raises(UsageError, match=r"without tokenizer\.json"):
        load(other, trust=True)
