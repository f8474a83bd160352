"""The space of a config that names none: what nearly every training gains from, around the config's own values."""

from __future__ import annotations

from typing import Any

from scaledl.config import Config
from scaledl.config.schema import TaskConfig
from scaledl.config.traits import LOSS_KEYS

_DECADES = 1.5


def default_space(config: Config) -> dict[str, Any]:
    """Learning rate, weight decay, batch size, label smoothing where the task has it; for `compress` the ratios and
    rates of its stages."""
    if config.tune.verb == "compress":
        return _of_recipe(config)
    lr, batch = config.optimizer.lr, config.data.batch_size
    sizes = sorted(
        {size for size in (batch // 2, batch, batch * 2) if size >= 1 and size % config.trainer.accumulate == 0}
    )
    space: dict[str, Any] = {
        "optimizer.lr": {"loguniform": [_rounded(lr / 10**_DECADES), _rounded(lr * 10**_DECADES)]},
        **_decay(config),
        "data.batch_size": {"choice": sizes},
    }
    return space | ({"task.label_smoothing": {"uniform": [0.0, 0.2]}} if _smooths(config.task) else {})


def _decay(config: Config) -> dict[str, Any]:
    """Weight decay, or the penalty of an optimizer that has none."""
    if "weight_decay" in config.optimizer.foreign(config.optimizer.name):
        return {"optimizer.l2": {"uniform": [0.0, 0.1]}}
    return {"optimizer.weight_decay": {"loguniform": [1e-5, 0.3]}}


def _smooths(task: TaskConfig) -> bool:
    keys, loss = task.traits.keys, task.loss
    return keys is None or ("label_smoothing" in keys and (loss is None or loss in LOSS_KEYS["label_smoothing"]))


def _of_recipe(config: Config) -> dict[str, Any]:
    space: dict[str, Any] = {}
    for i, stage in enumerate(config.compress.stages):
        key = f"compress.stages.{i}"
        if stage.method == "prune":
            space[f"{key}.ratio"] = {"uniform": [0.1, 0.7]}
        if stage.method in ("prune", "distill", "qat"):
            space[f"{key}.teacher_weight"] = {"uniform": [0.0, 1.0]}
    return space


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")
