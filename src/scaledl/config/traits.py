"""What a config has to know of a task before anything is imported: its figures, its losses, the keys that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .figures import FIGURES, Scale


@dataclass(frozen=True)
class Traits:
    """What goes with the name of a task.

    Attributes:
        figures: what it is judged by besides its loss; the first is the headline.
        losses: names of those that it can be trained with; the first is its own.
        keys: of the task section, besides `name`, `loss` and `metrics`; None where that is not known.
        scale: what its outputs are judged as, which says what `metrics` may add.
    """

    figures: tuple[str, ...]
    losses: tuple[str, ...] = ()
    keys: tuple[str, ...] | None = ()
    scale: Scale | None = None

    @property
    def addable(self) -> tuple[str, ...]:
        """Metrics that `task.metrics` may name."""
        return tuple(name for name, figure in FIGURES.items() if self.scale in figure.scales)


_ONE_OF_SEVERAL = ("cross_entropy", "focal")
_OF_CLASSES = ("label_smoothing", "class_weights", "focal_gamma")
_OF_NUMBERS = ("mse", "mae", "huber")
TRAITS: Mapping[str, Traits] = {
    "classification": Traits(("accuracy",), _ONE_OF_SEVERAL, _OF_CLASSES, "classes"),
    "multilabel": Traits(("f1", "accuracy"), ("bce", "focal"), ("threshold", "class_weights", "focal_gamma"), "labels"),
    "regression": Traits(("rmse", "mae", "r2"), _OF_NUMBERS, ("huber_delta",), "numbers"),
    "tagging": Traits(("accuracy", "f1"), _ONE_OF_SEVERAL, _OF_CLASSES, "classes"),
    "transcription": Traits(("label_error_rate",), ("ctc",)),
    "segmentation": Traits(("iou", "accuracy"), _ONE_OF_SEVERAL, _OF_CLASSES, "classes"),
    "language_modeling": Traits(
        ("perplexity", "bits_per_character"), _ONE_OF_SEVERAL, ("label_smoothing", "focal_gamma"), "tokens"
    ),
    "masked_language_modeling": Traits(
        ("perplexity", "accuracy"), _ONE_OF_SEVERAL, ("label_smoothing", "focal_gamma", "mask_ratio"), "tokens"
    ),
    "reconstruction": Traits(
        ("mse",), ("mse", "mae", "huber", "bce"), ("huber_delta", "anomaly_label", "kl_weight"), "numbers"
    ),
    "masked_reconstruction": Traits(("mse",), _OF_NUMBERS, ("huber_delta", "mask_ratio", "mask_patch"), "numbers"),
    "contrastive": Traits(("pair_accuracy",), ("nt_xent", "triplet"), ("embedding", "temperature", "margin")),
    "semi_supervised": Traits(
        ("accuracy",),
        _ONE_OF_SEVERAL,
        ("label_smoothing", "focal_gamma", "unlabeled_fraction", "unlabeled_weight", "confidence"),
        "classes",
    ),
    "multi_task": Traits(("loss",), (), ("heads",)),
}
LOSS_KEYS: Mapping[str, tuple[str, ...]] = {  # keys that only these losses look at
    "label_smoothing": _ONE_OF_SEVERAL,
    "focal_gamma": ("focal",),
    "huber_delta": ("huber",),
    "temperature": ("nt_xent",),
    "margin": ("triplet",),
}
UNKNOWN = Traits(("loss",), keys=None)
ANOMALIES = ("auroc", "average_precision")
HEAD_FIGURES = {"class": "accuracy", "labels": "f1", "numbers": "rmse"}


def figures_of(task: Mapping[str, Any]) -> tuple[str, ...]:
    """What a task with these keys is judged by, without `metrics`; the first is the headline.

    >>> figures_of({"name": "regression"}), figures_of({})
    (('rmse', 'mae', 'r2'), ('accuracy',))
    >>> figures_of({"name": "reconstruction", "anomaly_label": "broken"})
    ('auroc', 'average_precision', 'mse')
    """
    own = traits_of(str(task.get("name", "classification"))).figures
    heads = task.get("heads") or {}
    of_heads = tuple(f"{name}_{HEAD_FIGURES[head['kind']]}" for name, head in heads.items())
    return (*(ANOMALIES if task.get("anomaly_label") else ()), *own, *of_heads)


def traits_of(name: str) -> Traits:
    """Of a task that is not one of ours nothing is known but that it has a loss."""
    return TRAITS.get(name, UNKNOWN)
