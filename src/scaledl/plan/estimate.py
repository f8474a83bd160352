"""`plan`: estimates for layouts, from as few trials as their shares need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scaledl.config import Config
from scaledl.errors import ScaledlError
from scaledl.plan.bandwidth import Bandwidth, bandwidth
from scaledl.plan.layout import Layout, micro_batch
from scaledl.plan.measure import Measured, Trial, measure, trial_of
from scaledl.plan.memory import Memory, memory
from scaledl.plan.walltime import WallTime, wall_time

Announce = Callable[[Trial], None]
Forgive = Callable[[Trial, ScaledlError], None]


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
    forgive: Forgive | None = None,
) -> Plan:
    """Estimates for the layouts, in their order.

    Args:
        gpu: whether a rank trains on a GPU of this machine.
        given_bandwidth: bytes a second between ranks, instead of what is measured or assumed.
        announce: called before each trial, which takes seconds.
        forgive: called with what went wrong in a trial, whose layouts are then left out; never for the first layout.

    Raises:
        UsageError: a layout that leaves ranks without samples, a config that cannot train here.
        ScaledlError: a trial failed.
    """
    trials: dict[Trial, Measured] = {}
    for trial in dict.fromkeys(trial_of(config, layout, gpu=gpu) for layout in layouts):
        announce(trial)
        try:
            trials[trial] = measure(config, trial)
        except ScaledlError as error:
            if forgive is None or not trials:
                raise
            forgive(trial, error)
    known = [(layout, trials.get(trial_of(config, layout, gpu=gpu))) for layout in layouts]
    estimates = [_estimate(config, layout, found, given_bandwidth) for layout, found in known if found is not None]
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
