"""Samples without a label make up for labels that are few."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from scaledl.config import Config, replace
from scaledl.config.schema import PrepareConfig
from scaledl.data import build_data
from scaledl.data.prepare.run import prepare
from scaledl.evaluate import evaluate_split
from scaledl.run import Run
from scaledl.tasks.model import model_for
from scaledl.train import fit

pytestmark = pytest.mark.numerics

EACH = 5  # labels of a class
PLAN: dict[str, Any] = {
    "model": {"family": "mlp", "hidden": [128]},
    "data.augment.noise": 0.1,
    "optimizer.lr": 0.005,
    "trainer.precision": "fp32",
    "trainer.num_threads": 1,
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,297 to train with, of which 50 have a label; 100 to validate, 400 to test."""
    found, order = load_digits(), np.random.default_rng(0).permutation(1797)
    images, classes = (found.images[order] * 15).astype(np.uint8), found.target[order]
    parts = {"test": slice(0, 400), "val": slice(400, 500), "train": slice(500, None)}
    arrays: dict[str, NDArray[Any]] = {f"x_{name}": images[part] for name, part in parts.items()}
    arrays |= {f"y_{name}": classes[part].copy() for name, part in parts.items()}
    known = np.concatenate([np.flatnonzero(arrays["y_train"] == label)[:EACH] for label in range(10)])
    arrays["y_train"][np.setdiff1d(np.arange(1297), known)] = -1
    folder = tmp_path_factory.mktemp("digits")
    np.savez(folder / "all.npz", **arrays)
    few = {"x_train": arrays["x_train"][known], "y_train": arrays["y_train"][known]}
    np.savez(folder / "few.npz", **{**arrays, **few})
    for name in ("all", "few"):
        prepare(folder / f"{name}.npz", folder / name, PrepareConfig(unlabeled="keep", near_duplicates="keep"))
    return folder


def accuracy(folder: Path, seed: int, **changes: Any) -> float:
    """Of the test split, after a training."""
    source = {"data.source": "prepared", "data.root": str(folder), "run.seed": seed}
    config = replace(Config(), {**PLAN, **source, **changes})
    data = build_data(config.data, seed)
    run = Run.create(folder.parent / "runs", "t", config=config)
    run.begin()
    result = fit(config, run, data, model_for(config, data.spec))
    return evaluate_split(result.model.module.eval(), data, config, "test").metrics["accuracy"]


def test_they_bring_more_than_the_labels_alone(digits: Path) -> None:
    """About 84 % instead of 80 %, after 440 steps and after 200."""
    alone = [accuracy(digits / "few", seed, **{"trainer.epochs": 200}) for seed in (0, 1)]
    more = [accuracy(digits / "all", seed, **{"task.name": "semi_supervised", "trainer.epochs": 40}) for seed in (0, 1)]
    assert np.mean(more) > np.mean(alone) + 0.02
