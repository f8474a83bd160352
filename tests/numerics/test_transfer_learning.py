"""What transfer learning is for: half of Fashion-MNIST's classes teach something about the other half."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import pytorch_lightning  # noqa: F401  (it sets a variable when it is first imported)
import torch

from scaledl import api
from scaledl.config import Config, replace
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
