"""Every regulariser and every augmentation by its key, through a training that learns and that it changes."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scaledl.api import prepare_data
from scaledl.config import Config, replace
from scaledl.config.registry import AUGMENTATIONS, REGULARISERS
from scaledl.data import DataModule, build_data
from scaledl.evaluate import evaluate_split
from scaledl.run import Run
from scaledl.tasks.model import model_for
from scaledl.train import fit

pytestmark = pytest.mark.unit

Keys = dict[str, Any]
BASE = replace(
    Config(),
    {
        "model": {"family": "cnn", "channels": [8], "hidden": [32]},
        "optimizer": {"lr": 0.01, "weight_decay": 0.0},
        "scheduler.name": "constant",
        "trainer": {"epochs": 3, "precision": "fp32", "compile": False, "num_threads": 1},
    },
)
WORDS = ({"rain", "cloud", "storm", "wind", "snow"}, {"bread", "salt", "soup", "rice", "milk"})
# A value for each key, and what else it needs.
REGULARISED: dict[str, tuple[Any, Keys]] = {
    "optimizer.weight_decay": (0.1, {}),
    "optimizer.l1": (1e-4, {}),
    "optimizer.l2": (1e-3, {}),
    "optimizer.sam_rho": (0.05, {}),
    "trainer.ema_decay": (0.9, {}),
    "trainer.swa_start": (0.5, {}),
    "trainer.gradient_clip": (0.1, {}),
    "trainer.gradient_clip_value": (0.01, {}),
    "trainer.early_stopping_patience": (1, {"trainer.epochs": 12, "optimizer.lr": 0.03}),
    "task.label_smoothing": (0.1, {}),
    "model.dropout": (0.2, {}),
    "model.dropout_kind": ("spatial", {"model.dropout": 0.2}),
    "model.drop_path": (0.1, {"model": {"family": "vit", "width": 32, "layers": 2, "heads": 4, "patch_size": 2}}),
}
AUGMENTED: dict[str, Any] = {
    "crop": 1,
    "flip": True,
    "resized_crop": (0.5, 1.0),
    "policy": "trivialaugment",
    "rotation": 20.0,
    "translation": 0.1,
    "scale": (0.8, 1.2),
    "shear": 10.0,
    "brightness": 0.3,
    "contrast": 0.3,
    "saturation": 0.5,
    "blur": (0.1, 1.0),
    "noise": 0.1,
    "cutout": 0.3,
    "mixup": 0.2,
    "cutmix": 1.0,
    "series.crop": 0.2,
    "series.warp": 0.3,
    "series.repeat": 0.1,
    "series.noise": 0.2,
    "series.mask": 0.2,
    "text.drop": 0.2,
    "text.swap": 0.3,
    "text.mask": 0.2,
}
SERIES: Keys = {"trainer.epochs": 8, "data.batch_size": 32}
TEXT: Keys = {"model": {"family": "gru", "hidden": 16}, "trainer.epochs": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared sets: photos (digits, each in a colour), series of two frequencies, texts of weather and of food."""
    folder, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    digits = build_data(Config().data, 0).train
    colours = rng.uniform(0.3, 1.0, (len(digits), 1, 1, 3))
    np.savez(folder / "photos.npz", x=(digits.inputs.numpy() * colours).astype(np.uint8), y=digits.labels.numpy())
    kinds = np.arange(240) % 2
    waves = np.sin((1 + kinds[:, None, None]) * np.linspace(0, 6, 24) + rng.uniform(0, 6, (240, 1, 1)))
    np.savez(folder / "series.npz", x=waves + 0.1 * rng.normal(size=waves.shape), y=kinds)
    texts = [{"text": " ".join(rng.choice(sorted(WORDS[kind]), 8)), "label": f"k{kind}"} for kind in kinds.tolist()]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, texts)))
    for name, kind in (("photos.npz", "auto"), ("series.npz", "series"), ("texts.jsonl", "auto")):
        prepare_data(str(folder / name), folder / Path(name).stem, replace(Config(), {"data.prepare.kind": kind}))
    return folder


@cache
def data_of(source: str, root: str | None) -> DataModule:
    return build_data(replace(BASE, {"data.source": source, "data.root": root}).data, 0)


def weights_after(config: Config, folder: Path) -> list[Tensor]:
    """Of a training that learns."""
    data = data_of(config.data.source, config.data.root)
    model = model_for(config, data.spec)
    with torch.no_grad():
        before = evaluate_split(model.module.eval(), data, config, "test").loss
    run = Run.create(folder, "regulariser", config=config)
    run.begin()
    module = fit(config, run, data, model).model.module.eval()
    with torch.no_grad():
        assert evaluate_split(module, data, config, "test").loss < 0.8 * before, "it learns"
    return [weight.detach() for weight in module.parameters()]


def check(key: str, value: Any, others: Keys, folder: Path) -> None:
    without = weights_after(replace(BASE, others), folder)
    weights = weights_after(replace(BASE, {**others, key: value}), folder)
    assert any(not torch.equal(one, other) for one, other in zip(weights, without, strict=True)), "it does something"


@pytest.mark.parametrize("key", REGULARISERS.names())
def test_it_learns_with_every_regulariser(key: str, tmp_path: Path) -> None:
    value, others = REGULARISED[key]
    check(key, value, others, tmp_path)


@pytest.mark.parametrize("key", AUGMENTATIONS.names())
def test_it_learns_with_every_augmentation(key: str, folder: Path, tmp_path: Path) -> None:
    name = key.removeprefix("data.augment.")
    kind, others = {"series": ("series", SERIES), "text": ("texts", TEXT)}.get(name.split(".")[0], ("photos", {}))
    check(key, AUGMENTED[name], {**others, "data.source": "prepared", "data.root": str(folder / kind)}, tmp_path)
