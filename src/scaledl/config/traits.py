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
TRAITS: Mapping[str, Traits] = {
    "classification": Traits(("accuracy",), _ONE_OF_SEVERAL, _OF_CLASSES, "classes"),
    "multilabel": Traits(("f1", "accuracy"), ("bce", "focal"), ("threshold", "class_weights", "focal_gamma"), "labels"),
    "regression": Traits(("rmse", "mae", "r2"), ("mse", "mae", "huber"), ("huber_delta",), "numbers"),
    "tagging": Traits(("accuracy", "f1"), _ONE_OF_SEVERAL, _OF_CLASSES, "classes"),
    "segmentation": Traits(("iou", "accuracy"), _ONE_OF_SEVERAL, _OF_CLASSES, "classes"),
}
UNKNOWN = Traits(("loss",), keys=None)


def headline_of(task: Mapping[str, Any]) -> str:
    """The figure that a task with these keys is judged by, above all others.

    >>> headline_of({"name": "regression"}), headline_of({})
    ('rmse', 'accuracy')
    """
    return traits_of(str(task.get("name", "classification"))).figures[0]


def traits_of(name: str) -> Traits:
    """Of a task that is not one of ours nothing is known but that it has a loss."""
    return TRAITS.get(name, UNKNOWN)
