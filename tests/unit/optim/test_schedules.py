import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scaledl.config.schema import SchedulerConfig
from scaledl.optim.schedules import build_schedule

pytestmark = pytest.mark.unit


@given(
    name=st.sampled_from(["constant", "cosine", "one_cycle"]),
    warmup=st.floats(0, 5),
    floor=st.floats(0, 0.9),
    steps_per_epoch=st.integers(1, 50),
    epochs=st.integers(1, 10),
)
def test_factors_stay_between_zero_and_one(name, warmup, floor, steps_per_epoch, epochs):
    config = SchedulerConfig(name=name, warmup_epochs=warmup, min_lr_ratio=floor)
    schedule = build_schedule(config, steps_per_epoch, steps_per_epoch * epochs)
    assert all(0 <= schedule(step) <= 1 + 1e-12 for step in range(steps_per_epoch * epochs + 1))


def test_cosine_with_warmup_rises_to_the_peak_and_falls_to_the_floor():
    schedule = build_schedule(SchedulerConfig(name="cosine", warmup_epochs=1, min_lr_ratio=0.1), 10, 100)
    values = [schedule(step) for step in range(101)]
    assert values[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert values[10] == 1.0
    assert values[100] == pytest.approx(0.1)
    assert values[10:] == sorted(values[10:], reverse=True)


def test_cosine_equals_torch():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    schedule = build_schedule(SchedulerConfig(name="cosine"), 10, 40)
    for step in range(40):
        assert schedule(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        reference.step()


def test_one_cycle_peaks_where_the_warmup_ends():
    schedule = build_schedule(SchedulerConfig(name="one_cycle"), 10, 100)
    values = [schedule(step) for step in range(101)]
    assert math.isclose(values[0], 1 / 25)
    assert max(range(101), key=values.__getitem__) == 30
    assert values[100] == pytest.approx(0.0)
