"""All metrics of an evaluation, fed batch by batch, over every rank."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from safetensors.torch import load, save
from torch import Tensor
from torchmetrics import Metric

from scaledl.config.registry import METRICS
from scaledl.distributed.ranks import Ranks
from scaledl.tasks.metrics import Gauge, Judged

Pairs = Mapping[str, tuple[Tensor, Tensor]]
"""Outputs and truths that metrics see, by what they are about: "outputs", or the name of a head."""


class Meter:
    """Gauges by the names of their figures. Nothing of it is a part of a module, its device or its state."""

    def __init__(self, gauges: Mapping[str, Gauge]) -> None:
        self._gauges = dict(gauges)

    def reset(self) -> None:
        for gauge in self._gauges.values():
            gauge.metric.reset()

    def update(self, pairs: Pairs) -> None:
        """Take in a batch. Of what no pair is about, nothing is known of this batch."""
        for gauge in self._gauges.values():
            if gauge.about in pairs:
                outputs, truths = gauge.view(*pairs[gauge.about])
                gauge.metric.to(outputs.device)
                if len(outputs):  # of a batch all of whose truths are missing, nothing is left
                    gauge.metric.update(outputs, truths)

    def results(self, ranks: Ranks) -> dict[str, Tensor]:
        """Each figure, over all ranks, which call this together; before the next batch comes `reset`."""
        if ranks.several:
            self._share(ranks)
        return {name: _computed(gauge.metric) for name, gauge in self._gauges.items()}

    def _share(self, ranks: Ranks) -> None:
        """Sums are added up over the ranks, lists put one behind the other."""
        given = [load(one) for one in ranks.gather_bytes(save(dict(self._states())))]
        for name, gauge in self._gauges.items():
            for key, value in gauge.metric.metric_state.items():
                parts = [state[f"{name}.{key}"] for state in given if f"{name}.{key}" in state]
                setattr(gauge.metric, key, parts if isinstance(value, list) else sum(parts))

    def _states(self) -> Iterator[tuple[str, Tensor]]:
        for name, gauge in self._gauges.items():
            for key, value in gauge.metric.metric_state.items():
                if isinstance(value, Tensor):
                    yield f"{name}.{key}", value.detach().cpu().clone()
                elif value:
                    yield f"{name}.{key}", torch.cat(value).detach().cpu().clone()


def gauge(name: str, judged: Judged, about: str | None = None) -> Gauge:
    """The metric of this name, for outputs that are judged so; `about` another pair than its own."""
    made: Gauge = METRICS.resolve(name)(judged)
    return replace(made, about=about or made.about)


def _computed(metric: Metric) -> Tensor:
    metric.distributed_available_fn = lambda: False  # what other ranks have is here already
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*compute.* method of metric")  # on a rank that had no sample
        warnings.filterwarnings("ignore", message=".*(No positive samples|No negative samples|score for one or more)")
        result: Tensor = metric.compute()
    return result.detach().cpu()
