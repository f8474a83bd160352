"""Which family and task suit a prepared data set, for those who ask what to do with it."""

from __future__ import annotations

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
    if target == "mask":
        family = "unet"
    elif target == "tags" and modality == "series":
        family = "lstm"
    elif target == "none":
        family = {"image": "autoencoder", "text": "gpt"}.get(modality, family)
        task = "language_modeling" if modality == "text" else task
    return [f"{key}={name}" for key, name in (("model.family", family), ("task.name", task)) if name]
