"""Memory and wall time from given measurements: what is computed is plain arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scaledl.config import Config
from scaledl.config import replace as set_keys
from scaledl.plan.layout import Layout
from scaledl.plan.measure import Measured
from scaledl.plan.memory import memory, num_states
from scaledl.plan.walltime import wall_time

pytestmark = pytest.mark.unit

MB = 10**6
MEASURED = Measured(
    gpu=False,
    device="cpu",
    precision="fp32",
    parameters=25 * MB,
    parameter_bytes=100 * MB,
    trainable_bytes=100 * MB,
    buffer_bytes=2 * MB,
    samples={"train": 1000, "val": 100, "test": 100},
    process_bytes=700 * MB,
    data_bytes=50 * MB,
    host_peaks=dict.fromkeys(("load", "start", "train", "validate", "save", "finish"), 2000 * MB),
    gpu_peaks={},
    seconds={"start": 4.0, "step": 0.1, "validate": 2.0, "finish": 3.0},
    deepspeed_bytes=150 * MB,
)
CONFIG = Config()


def test_parts_of_one_rank_add_up_to_the_measured_peak() -> None:
    found = memory(CONFIG, Layout(), MEASURED)
    assert sum(found.parts.values()) == MEASURED.host_peaks["train"]
    assert found.parts["gradients"] == 100 * MB
    assert found.parts["optimizer"] == 200 * MB
    assert (found.peak, found.host_peak) == (2000 * MB, 2000 * MB)


def test_what_zero_shards() -> None:
    parts = [memory(CONFIG, Layout(2, 2, stage), MEASURED).parts for stage in (0, 1, 2, 3)]
    assert [found["gradients"] // MB for found in parts[:2]] == [100, 100]
    assert all(found["activations"] == parts[0]["activations"] for found in parts)
    totals = [sum(found.values()) for found in parts]
    assert totals[1] > totals[2] > totals[3]


def test_states_of_the_optimizers() -> None:
    def states(**keys: object) -> int:
        return num_states(set_keys(CONFIG, {"optimizer": keys}))

    assert states(name="adamw") == 2
    assert states(name="sgd") == 1
    assert states(name="sgd", momentum=0.0) == 0


def test_on_a_gpu_the_process_and_the_data_stay_on_the_host() -> None:
    gpu = replace(MEASURED, gpu=True, gpu_peaks=dict.fromkeys(MEASURED.host_peaks, 900 * MB))
    found = memory(CONFIG, Layout(), gpu)
    assert set(found.parts) == {"model", "gradients", "optimizer", "activations"}
    assert (sum(found.parts.values()), found.peak, found.host_peak) == (900 * MB, 900 * MB, 2000 * MB)


def test_wall_time_is_steps_validations_and_both_ends() -> None:
    config = set_keys(CONFIG, {"data.batch_size": 100, "trainer.epochs": 3})
    found = wall_time(config, Layout(), MEASURED, None)
    assert (found.steps, found.exchange) == (30, 0.0)
    assert found.total == pytest.approx(4 + 30 * 0.1 + 3 * 2 + 3)
    assert found.epoch == pytest.approx(10 * 0.1 + 2)


def test_ranks_share_the_validation_and_wait_for_the_exchange() -> None:
    config = set_keys(CONFIG, {"data.batch_size": 100, "trainer.epochs": 1})
    found = wall_time(config, Layout(2, 1), MEASURED, 1e9)
    assert found.exchange == pytest.approx(100 * MB / 1e9)
    assert found.step == pytest.approx(0.2)
    assert found.total == pytest.approx(4 + 10 * 0.2 + 1 + 3)


def test_max_steps_ends_a_training_within_an_epoch() -> None:
    config = set_keys(CONFIG, {"data.batch_size": 100, "trainer.epochs": 3, "trainer.max_steps": 12})
    found = wall_time(config, Layout(), MEASURED, None)
    assert found.steps == 12
    assert found.total == pytest.approx(4 + 12 * 0.1 + 2 * 2 + 3)
