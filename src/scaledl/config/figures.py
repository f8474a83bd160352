"""The figures that models are judged by: how they are called and written, and which way is better. Imports nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Scale = Literal["classes", "labels", "numbers", "tokens"]
"""What outputs are judged as: one of several classes, any of several labels, numbers, or the next token."""

_CLASSES: tuple[Scale, ...] = ("classes", "tokens")
_DECISIONS: tuple[Scale, ...] = ("classes", "labels")


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        label: what it is called in headings.
        way: what is better, max or min.
        scales: of outputs that have it; none where only tasks that bring it by themselves do.
        is_share: from 0 to 1, written as per cent.
    """

    label: str
    way: Literal["max", "min"]
    scales: tuple[Scale, ...] = ()
    is_share: bool = False


FIGURES: Mapping[str, Figure] = {
    "loss": Figure("loss", "min"),
    "accuracy": Figure("accuracy", "max", ("classes", "labels", "tokens"), is_share=True),
    "balanced_accuracy": Figure("balanced accuracy", "max", ("classes",), is_share=True),
    "top5_accuracy": Figure("top-5 accuracy", "max", _CLASSES, is_share=True),
    "exact_match": Figure("exact match", "max", ("labels",), is_share=True),
    "precision": Figure("precision", "max", _DECISIONS, is_share=True),
    "recall": Figure("recall", "max", _DECISIONS, is_share=True),
    "specificity": Figure("specificity", "max", _DECISIONS, is_share=True),
    "f1": Figure("F1", "max", _DECISIONS, is_share=True),
    "iou": Figure("mean IoU", "max", _DECISIONS, is_share=True),
    "dice": Figure("Dice", "max", _DECISIONS, is_share=True),
    "matthews": Figure("Matthews correlation", "max", _DECISIONS),
    "auroc": Figure("AUROC", "max", _DECISIONS),
    "average_precision": Figure("average precision", "max", _DECISIONS),
    "calibration_error": Figure("calibration error", "min", ("classes",), is_share=True),
    "mse": Figure("MSE", "min", ("numbers",)),
    "rmse": Figure("RMSE", "min", ("numbers",)),
    "mae": Figure("MAE", "min", ("numbers",)),
    "r2": Figure("R²", "max", ("numbers",)),
    "perplexity": Figure("perplexity", "min", ("tokens",)),
    "bits_per_token": Figure("bits per token", "min", ("tokens",)),
    "bits_per_character": Figure("bits per character", "min", ("tokens",)),
    "label_error_rate": Figure("label error rate", "min"),
    "pair_accuracy": Figure("pair accuracy", "max", is_share=True),
}


def figure_of(name: str) -> Figure | None:
    """The figure that a metric's name ends with: of a split, of one head of several; None where it is another number.

    >>> figure_of("val_accuracy").label, figure_of("test_age_rmse").label, figure_of("size_bytes")
    ('accuracy', 'RMSE', None)
    """
    end = _end_of(name)
    return FIGURES[end] if end else None


def heading(name: str) -> str:
    """A metric in words, with the split or head that its name begins with.

    >>> heading("test_accuracy"), heading("test_age_rmse"), heading("params")
    ('test accuracy', 'test age RMSE', 'params')
    """
    end = _end_of(name)
    start = name.removesuffix(end).replace("_", " ")
    return start + FIGURES[end].label if end else start


def written(name: str, value: float) -> str:
    """The value of a figure for people: shares as per cent, others with four digits.

    >>> written("accuracy", 0.98333), written("rmse", 53.18234), written("perplexity", 1234.5)
    ('98.33 %', '53.18', '1234')
    """
    found = figure_of(name)
    if found is not None and found.is_share:
        return f"{100 * value:.2f} %"
    return f"{value:.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"


def difference(name: str, start: float, now: float) -> str:
    """How a figure changed, signed: points of per cent of a share, else with as many decimals as the values have.

    >>> difference("accuracy", 0.98, 0.975), difference("rmse", 53.1, 54.0), difference("perplexity", 22.74, 22.0637)
    ('-0.50', '+0.9', '-0.68')
    """
    found = figure_of(name)
    if found is not None and found.is_share:
        return f"{100 * (now - start):+.2f}"
    texts = [written(name, value) for value in (start, now)]
    if any("e" in text for text in texts):
        return f"{now - start:+.4g}"
    return f"{now - start:+.{max(len(text.partition('.')[2]) for text in texts)}f}"


def _end_of(name: str) -> str:
    words = name.split("_")
    ends = ("_".join(words[start:]) for start in range(len(words)))
    return next((end for end in ends if end in FIGURES), "")
