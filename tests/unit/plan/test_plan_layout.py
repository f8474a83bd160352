"""Layouts, their neighbours, and what each rank gets of a batch."""

from __future__ import annotations

import pytest

from scaledl.config import Config, replace
from scaledl.errors import UsageError
from scaledl.plan.layout import Layout, config_layout, micro_batch, neighbours, num_threads

pytestmark = pytest.mark.unit


def config(**changes: object) -> Config:
    return replace(Config(), {key.replace("__", "."): value for key, value in changes.items()})


def test_auto_is_one_rank_without_gpus_and_all_of_them_with() -> None:
    assert config_layout(config(), num_gpus=0) == Layout()
    assert config_layout(config(), num_gpus=4) == Layout(1, 4)
    assert config_layout(config(trainer__devices=2, trainer__num_nodes=3), num_gpus=8) == Layout(3, 2)


def test_the_stage_counts_under_deepspeed_only() -> None:
    zero = {"trainer__deepspeed": {"stage": 3, "offload_optimizer": True}}
    assert config_layout(config(**zero), num_gpus=0).stage == 0
    found = config_layout(config(**zero, trainer__strategy="deepspeed"), num_gpus=0)
    assert (found.stage, found.offload_optimizer, found.offload_parameters) == (3, True, False)


def test_neighbours_of_several_ranks_have_their_number() -> None:
    near = neighbours(Layout(2, 4))
    assert Layout(2, 4) not in near
    assert Layout(1, 1) in near
    assert [found.stage for found in near if found.world_size == 8] == [1, 2, 3]


@pytest.mark.parametrize(("ranks", "accumulate", "samples"), [(1, 1, 128), (3, 1, 43), (2, 4, 16), (128, 1, 1)])
def test_share_of_the_busiest_rank(ranks: int, accumulate: int, samples: int) -> None:
    assert micro_batch(config(trainer__accumulate=accumulate), Layout(ranks, 1)) == samples


def test_a_rank_without_samples_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"data\.batch_size: got 128 in 64 .* for 4 ranks .*at least 256"):
        micro_batch(config(trainer__accumulate=64), Layout(2, 2))


def test_ranks_of_a_node_share_its_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    assert [num_threads(config(), Layout(2, devices)) for devices in (1, 3, 8, 16)] == [8, 2, 1, 1]
    assert num_threads(config(trainer__num_threads=5), Layout(1, 8)) == 5
