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
    largest_bytes=40 * MB,
    buffer_bytes=2 * MB,
    samples={"train": 1000, "val": 100, "test": 100},
    process_bytes=700 * MB,
    data_bytes=50 * MB,
    host_peaks=dict.fromkeys(("load", "start", "train", "validate", "save", "finish"), 2000 * MB),
    gpu_peaks={},
    seconds={"start": 4.0, "step": 0.1, "validate": 2.0, "finish": 3.0},
)
CONFIG = Config()


def test_parts_of_one_rank_add_up_to_the_measured_peak() -> None:
    found = memory(CONFIG, Layout(), MEASURED)
    assert sum(found.parts.values()) == MEASURED.host_peaks["train"]
    assert found.parts["gradients"] == 100 * MB
    assert found.parts["optimizer"] == 200 * MB
    assert (found.peak, found.host_peak) == (2000 * MB, 2000 * MB)


@pytest.mark.parametrize(
    ("stage", "precision", "shards"), [(1, "fp32", 3), (2, "fp32", 3), (3, "fp32", 4), (1, "bf16", 4), (3, "bf16", 5)]
)
def test_zero_keeps_a_share_of_states_weights_and_gradients(stage: int, precision: str, shards: int) -> None:
    """`shards`: what is held in shares while training, in sizes of the model: two moments, gradients, in stage 3 the
    weights, in bf16 a copy of them."""
    measured = replace(MEASURED, precision=precision)
    alone, four = (memory(CONFIG, Layout(nodes, 1, stage), measured) for nodes in (1, 4))
    assert alone.peaks == MEASURED.host_peaks
    assert alone.peaks["train"] - four.peaks["train"] == shards * 75 * MB
    states = 2 if precision == "fp32" else 3
    assert alone.parts["optimizer"] == 4 * four.parts["optimizer"] == states * 100 * MB
    assert alone.parts["gradients"] // four.parts["gradients"] == (4 if stage >= 2 else 1)
    assert sum(four.parts.values()) == four.peaks["train"]


def test_ddp_has_sums_of_gradients_beside_the_measured_rank() -> None:
    found = memory(CONFIG, Layout(2, 2), MEASURED)
    more = {phase: (peak - 2000 * MB) // MB for phase, peak in found.peaks.items()}
    assert more == {"load": 0, "start": 0, "train": 100, "validate": 100, "save": 100, "finish": 0}


def test_states_of_the_optimizers() -> None:
    def states(**keys: object) -> int:
        return num_states(set_keys(CONFIG, {"optimizer": keys}))

    assert states(name="adamw") == 2
    assert states(name="sgd") == 1
    assert states(name="sgd", momentum=0.0) == 0


def test_on_a_gpu_the_process_and_the_data_stay_on_the_host() -> None:
    gpu = replace(MEASURED, gpu=True, gpu_peaks=dict.fromkeys(MEASURED.host_peaks, 900 * MB))
    found = memory(CONFIG, Layout(), gpu)
    assert set(found.parts) == {"model", "gradients", "optimizer", "other"}
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
