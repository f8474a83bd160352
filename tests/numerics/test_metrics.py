"""Metrics against scikit-learn, fed in uneven batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

from scaledl.config.figures import FIGURES
from scaledl.config.registry import METRICS
from scaledl.config.traits import TRAITS
from scaledl.distributed.ranks import Ranks
from scaledl.tasks.meter import Meter, gauge
from scaledl.tasks.metrics import Judged

pytestmark = pytest.mark.numerics

N, K = 203, 5


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def classes() -> tuple[Tensor, Tensor]:
    """Class 4 is never true, class 3 never said."""
    truths = torch.randint(0, K - 1, (N,), generator=generator())
    logits = torch.randn(N, K, generator=generator()) + 2 * torch.nn.functional.one_hot(truths, K)
    logits[:, 3] -= 100
    return logits, truths


def labels() -> tuple[Tensor, Tensor]:
    truths = (torch.rand(N, K, generator=generator()) < 0.3).float()
    return torch.randn(N, K, generator=generator()) + truths - 0.5, truths


def numbers() -> tuple[Tensor, Tensor]:
    """Far from zero, where sums of squares lose what they differ by."""
    truths = 20000 + torch.randn(N, K, generator=generator()) * torch.tensor([1.0, 5, 10, 50, 100])
    return truths + torch.randn(N, K, generator=torch.Generator().manual_seed(1)), truths


PAIRS: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {"classes": classes, "labels": labels, "numbers": numbers}


def measured(name: str, scale: Any, outputs: Tensor, truths: Tensor) -> float:
    meter = Meter({name: gauge(name, Judged(scale, K, threshold=0.4))})
    for part, part_truths in zip(outputs.split(60), truths.split(60), strict=True):
        meter.update({"outputs": (part, part_truths)})
    return float(meter.results(Ranks())[name])


def said(outputs: Tensor) -> Any:
    return outputs.argmax(1).numpy()


def there(outputs: Tensor) -> Any:
    return (outputs.sigmoid() >= 0.4).long().numpy()


def seen_auroc(outputs: Tensor, truths: Tensor) -> float:
    p = outputs.softmax(1).numpy()
    return float(np.mean([sk.roc_auc_score(truths.numpy() == k, p[:, k]) for k in range(K - 1)]))


def seen_precision(outputs: Tensor, truths: Tensor) -> float:
    p = outputs.softmax(1).numpy()
    return float(np.mean([sk.average_precision_score(truths.numpy() == k, p[:, k]) for k in range(K - 1)]))


MACRO = {"average": "macro", "zero_division": 0}
OF_CLASSES: dict[str, Callable[[Tensor, Tensor], float]] = {
    "accuracy": lambda o, t: sk.accuracy_score(t, said(o)),
    "balanced_accuracy": lambda o, t: sk.recall_score(t, said(o), labels=[0, 1, 2, 3], average="macro"),
    "top5_accuracy": lambda o, t: sk.top_k_accuracy_score(t, o.numpy(), k=5, labels=range(K)),
    "precision": lambda o, t: sk.precision_score(t, said(o), **MACRO),
    "recall": lambda o, t: sk.recall_score(t, said(o), **MACRO),
    "f1": lambda o, t: sk.f1_score(t, said(o), **MACRO),
    "dice": lambda o, t: sk.f1_score(t, said(o), **MACRO),
    "iou": lambda o, t: sk.jaccard_score(t, said(o), **MACRO),
    "matthews": lambda o, t: sk.matthews_corrcoef(t, said(o)),
    "auroc": seen_auroc,
    "average_precision": seen_precision,
}
OF_LABELS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "accuracy": lambda o, t: float((there(o) == t.numpy()).mean()),
    "exact_match": lambda o, t: sk.accuracy_score(t.long(), there(o)),
    "precision": lambda o, t: sk.precision_score(t.long(), there(o), **MACRO),
    "recall": lambda o, t: sk.recall_score(t.long(), there(o), **MACRO),
    "f1": lambda o, t: sk.f1_score(t.long(), there(o), **MACRO),
    "dice": lambda o, t: sk.f1_score(t.long(), there(o), **MACRO),
    "iou": lambda o, t: sk.jaccard_score(t.long(), there(o), **MACRO),
    "auroc": lambda o, t: sk.roc_auc_score(t.long(), o.sigmoid(), average="macro"),
    "average_precision": lambda o, t: sk.average_precision_score(t.long(), o.sigmoid(), average="macro"),
    "matthews": lambda o, t: sk.matthews_corrcoef(t.long().flatten(), there(o).flatten()),
}
OF_NUMBERS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "mse": lambda o, t: sk.mean_squared_error(t.double(), o.double()),
    "rmse": lambda o, t: sk.root_mean_squared_error(t.double(), o.double()),
    "mae": lambda o, t: sk.mean_absolute_error(t.double(), o.double()),
    "r2": lambda o, t: sk.r2_score(t.double(), o.double()),
}
CASES = [
    *(("classes", *case) for case in OF_CLASSES.items()),
    *(("labels", *case) for case in OF_LABELS.items()),
    *(("numbers", *case) for case in OF_NUMBERS.items()),
]


@pytest.mark.parametrize(("scale", "name", "reference_fn"), CASES, ids=["-".join(case[:2]) for case in CASES])
def test_metric_against_scikit_learn(scale: str, name: str, reference_fn: Callable[[Tensor, Tensor], float]) -> None:
    outputs, truths = PAIRS[scale]()
    assert measured(name, scale, outputs, truths) == pytest.approx(reference_fn(outputs, truths), rel=1e-5)


def test_specificity_and_calibration_by_their_definitions() -> None:
    outputs, truths = classes()
    decided, p = outputs.argmax(1), outputs.softmax(1).double()
    others = [((decided != k) & (truths != k)).sum() / (truths != k).sum() for k in range(K)]
    assert measured("specificity", "classes", outputs, truths) == pytest.approx(float(sum(others)) / K, rel=1e-5)
    confidence, bins = p.max(1).values, 0.0
    for low in torch.linspace(0, 1, 16)[:-1]:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            right = (decided == truths)[inside].double().mean()
            bins += float(inside.double().mean() * (right - confidence[inside].mean()).abs())
    assert measured("calibration_error", "classes", outputs, truths) == pytest.approx(bins, rel=1e-4)


def test_entropy_of_tokens_in_three_units() -> None:
    logits, truths = torch.randn(N, K, generator=generator()), torch.randint(0, K, (N,), generator=generator())
    nats = -logits.double().log_softmax(1)[torch.arange(N), truths]
    lengths = torch.tensor([1.0, 2, 3, 4, 5], dtype=torch.float64)[truths]
    names = ("perplexity", "bits_per_token", "bits_per_character")
    meter = Meter({name: gauge(name, Judged("tokens", K)) for name in names})
    for rows in torch.arange(N).split(60):
        meter.update({"tokens": (nats[rows], torch.ones(len(rows))), "characters": (nats[rows], lengths[rows])})
    found = {name: float(value) for name, value in meter.results(Ranks()).items()}
    assert found["perplexity"] == pytest.approx(float(nats.mean().exp()))
    assert found["bits_per_token"] == pytest.approx(float(nats.mean()) / math.log(2))
    assert found["bits_per_character"] == pytest.approx(float(nats.sum()) / math.log(2) / float(lengths.sum()))


def test_names_scales_and_figures_belong_together() -> None:
    brought = {name for name, figure in FIGURES.items() if not figure.scales}
    assert set(METRICS.names()) == set(FIGURES) - brought
    for traits in TRAITS.values():
        assert set(traits.figures) <= set(FIGURES)
    for scale, pairs in PAIRS.items():
        outputs, truths = pairs()
        for name in (name for name, figure in FIGURES.items() if scale in figure.scales):
            value = measured(name, scale, outputs, truths)
            assert math.isfinite(value)
            assert not FIGURES[name].is_share or 0 <= value <= 1
