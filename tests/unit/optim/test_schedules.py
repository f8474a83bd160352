"""Every registered schedule: its bounds, against torch's own where there is one, with warm-up before it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from scaledl.config.registry import SCHEDULES
from scaledl.config.schema import SchedulerConfig
from scaledl.optim.schedules import Plateau, build_schedule, held

pytestmark = pytest.mark.unit

EXAMPLES = {
    "multistep": {"milestones": [2.0, 3.5]},
    "step": {"step_epochs": 2.0},
    "cosine_restarts": {"restart_epochs": 1.5},
}


@given(
    name=st.sampled_from(SCHEDULES.names()),
    warmup=st.floats(0, 5),
    floor=st.floats(0, 0.9),
    steps_per_epoch=st.integers(1, 50),
    epochs=st.integers(1, 10),
)
def test_factors_stay_between_zero_and_one(name, warmup, floor, steps_per_epoch, epochs):
    config = SchedulerConfig(name=name, warmup_epochs=warmup, min_lr_ratio=floor, **EXAMPLES.get(name, {}))
    schedule = build_schedule(config, steps_per_epoch, steps_per_epoch * epochs)
    assert all(0 <= schedule(step) <= 1 + 1e-12 for step in range(steps_per_epoch * epochs + 1))
    start = round(warmup * steps_per_epoch)
    assert name == "one_cycle" or all(schedule(s) >= floor - 1e-12 for s in range(start, steps_per_epoch * epochs + 1))


REFERENCES = {
    "cosine": ({}, lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=40)),
    "step": ({"step_epochs": 7.0, "gamma": 0.5}, lambda o: lr_scheduler.StepLR(o, 7, 0.5)),
    "multistep": ({"milestones": [30.0, 10.0]}, lambda o: lr_scheduler.MultiStepLR(o, [10, 30])),
    "exponential": ({"gamma": 0.9}, lambda o: lr_scheduler.ExponentialLR(o, 0.9)),
    "cosine_restarts": (
        {"restart_epochs": 5.0, "restart_factor": 2},
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5, 2),
    ),
    "polynomial": ({"power": 3.0}, lambda o: lr_scheduler.PolynomialLR(o, 40, 3.0)),
    "linear": ({}, lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, 40)),
    "constant": ({}, lambda o: lr_scheduler.ConstantLR(o, 1.0)),
}


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("steps_per_epoch", [1, 3])
def test_it_equals_torch(name, steps_per_epoch):
    """Torch steps once an epoch; cosine, polynomial and linear ones are told to count steps instead."""
    keys, reference_fn = REFERENCES[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = reference_fn(optimizer)
    by_epoch = name in ("step", "multistep", "exponential", "cosine_restarts")
    stride = steps_per_epoch if by_epoch else 1
    schedule = build_schedule(SchedulerConfig(name=name, **keys), steps_per_epoch, 40 * stride)
    for step in range(40):
        assert schedule(step * stride) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        reference.step()


@pytest.mark.parametrize("name", [name for name in SCHEDULES.names() if name != "one_cycle"])
def test_warmup_rises_before_it(name):
    config = SchedulerConfig(name=name, warmup_epochs=1.0, **EXAMPLES.get(name, {}))
    schedule = build_schedule(config, 10, 100)
    assert [schedule(step) for step in range(10)] == pytest.approx([0.1 * (i + 1) for i in range(10)])


def test_cosine_with_warmup_rises_to_the_peak_and_falls_to_the_floor():
    schedule = build_schedule(SchedulerConfig(name="cosine", warmup_epochs=1, min_lr_ratio=0.1), 10, 100)
    values = [schedule(step) for step in range(101)]
    assert values[10] == 1.0
    assert values[100] == pytest.approx(0.1)
    assert values[10:] == sorted(values[10:], reverse=True)


def test_milestones_and_steps_count_from_the_beginning_of_the_training():
    config = SchedulerConfig(name="multistep", warmup_epochs=1.0, milestones=[3.0], gamma=0.5)
    schedule = build_schedule(config, 10, 100)
    assert (schedule(29), schedule(30)) == (1.0, 0.5)


def test_the_inverse_root_begins_where_the_warmup_ends():
    schedule = build_schedule(SchedulerConfig(name="inverse_sqrt", warmup_epochs=2.0), 10, 1000)
    transformer = [min((s + 1) ** -0.5, (s + 1) * 20**-1.5) / 20**-0.5 for s in range(1000)]  # Vaswani et al. 2017
    assert [schedule(step) for step in range(1000)] == pytest.approx(transformer)


def test_one_cycle_peaks_where_the_warmup_ends():
    schedule = build_schedule(SchedulerConfig(name="one_cycle"), 10, 100)
    values = [schedule(step) for step in range(101)]
    assert math.isclose(values[0], 1 / 25)
    assert max(range(101), key=values.__getitem__) == 30
    assert values[100] == pytest.approx(0.0)


def test_a_rate_can_be_held():
    schedule = held(build_schedule(SchedulerConfig(name="linear"), 10, 100), 75, 0.2)
    assert (schedule(74), schedule(75), schedule(99)) == (pytest.approx(0.26), 0.2, 0.2)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(0, 4), st.floats(0, 0.5))
def test_plateau_equals_torch(losses, patience, floor):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.3, patience=patience, threshold=0.0, min_lr=floor, eps=0
    )
    plateau = Plateau(patience, 0.3, floor)
    for loss in losses:
        reference.step(loss)
        assert plateau.after(loss) == pytest.approx(optimizer.param_groups[0]["lr"])
