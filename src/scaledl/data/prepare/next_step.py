"""Which family and task suit a prepared data set, for those who ask what to do with it."""

from __future__ import annotations

import json
import re
from typing import Any

_TASKS = {
    "classes": "multilabel",
    "numbers": "regression",
    "tags": "tagging",
    "mask": "segmentation",
    "none": "reconstruction",
}
_FAMILIES = {"table": "mlp", "text": "transformer", "series": "mlp"}  # of images the default


def training_keys(document: dict[str, Any]) -> list[str]:
    """Overrides of `scaledl train`, besides the source.

    >>> training_keys({"modality": "image"}), training_keys({"modality": "table", "target": "numbers"})
    ([], ['model.family=mlp', 'task.name=regression'])
    """
    modality, target = document["modality"], document.get("target", "class")
    family, task = _FAMILIES.get(modality), _TASKS.get(target)
    if target == "class" and document.get("unlabeled"):
        task = "semi_supervised"
    if document.get("target_classes"):
        task = "multi_task"
    if target == "mask":
        family = "unet"
    elif target == "tags" and modality == "series":
        family = "lstm"
    elif target == "none":
        family = {"image": "autoencoder", "text": "gpt"}.get(modality, family)
        task = "language_modeling" if modality == "text" else task
    heads = [f"task.heads={json.dumps(_heads(document))}"] if task == "multi_task" else []
    return [*(f"{key}={name}" for key, name in (("model.family", family), ("task.name", task)) if name), *heads]


def _heads(document: dict[str, Any]) -> dict[str, Any]:
    """One for each column, under a name that a head can have."""
    made: dict[str, Any] = {}
    for number, (column, classes) in enumerate(zip(document["labels"], document["target_classes"], strict=True), 1):
        name = re.sub(r"[^a-z0-9_]+", "_", column.lower()).strip("_")[:32]
        name = name if name[:1].isalpha() and name not in made else f"head_{number}"
        made[name] = {"kind": "class" if classes else "numbers", "columns": [column]}
    return made
