"""`plan`: estimates for layouts, from as few trials as their shares need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scaledl.config import Config
from scaledl.plan.bandwidth import Bandwidth, bandwidth
from scaledl.plan.layout import Layout, micro_batch
from scaledl.plan.measure import Measured, Trial, measure, trial_of
from scaledl.plan.memory import Memory, memory
from scaledl.plan.walltime import WallTime, wall_time

Announce = Callable[[Trial], None]


@dataclass(frozen=True)
class Estimate:
    """One layout's. `micro_batch`: samples that a rank takes through the model at once."""

    layout: Layout
    micro_batch: int
    num_threads: int
    memory: Memory
    time: WallTime
    bandwidth: Bandwidth | None


@dataclass(frozen=True)
class Plan:
    """`measured`: the trial of the first layout."""

    measured: Measured
    estimates: list[Estimate]


def plan(
    config: Config,
    layouts: Sequence[Layout],
    *,
    gpu: bool,
    given_bandwidth: float | None = None,
    announce: Announce = lambda trial: None,
) -> Plan:
    """Estimates for the layouts, in their order.

    Args:
        gpu: whether a rank trains on a GPU of this machine.
        given_bandwidth: bytes a second between ranks, instead of what is measured or assumed.
        announce: called before each trial, which takes seconds.

    Raises:
        UsageError: a layout that leaves ranks without samples, a config that cannot train here.
        ScaledlError: a trial failed.
    """
    trials: dict[Trial, Measured] = {}
    for trial in dict.fromkeys(trial_of(config, layout, gpu=gpu) for layout in layouts):
        announce(trial)
        trials[trial] = measure(config, trial)
    estimates = [
        _estimate(config, layout, trials[trial_of(config, layout, gpu=gpu)], given_bandwidth) for layout in layouts
    ]
    return Plan(trials[trial_of(config, layouts[0], gpu=gpu)], estimates)


def _estimate(config: Config, layout: Layout, measured: Measured, given: float | None) -> Estimate:
    found = bandwidth(layout, given, gpu=measured.gpu, num_bytes=measured.trainable_bytes)
    return Estimate(
        layout,
        micro_batch(config, layout),
        trial_of(config, layout, gpu=measured.gpu).num_threads,
        memory(config, layout, measured),
        wall_time(config, layout, measured, found.value if found else None),
        found,
    )
