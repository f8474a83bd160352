"""Several ranks against one process: gradients, weights, losses, sample order, faults. DDP and ZeRO, over gloo."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.numerics

TRAIN_SAMPLES = 1294  # of digits, after the validation split
STEPS = 6  # in an epoch of batches of 250; the last has 44 samples
ZERO = {stage: {"trainer.strategy": "deepspeed", "trainer.deepspeed.stage": stage} for stage in (1, 2, 3)}
SGD = {"optimizer.name": "sgd", "optimizer.lr": 0.1}  # shows a gradient of the wrong scale, which Adam hides
PENALTIES = {"optimizer.l1": 1e-3, "optimizer.l2": 1e-2}
PLATEAU = {  # a rate at which the second epoch is no better than the first
    "optimizer": {"name": "sgd", "lr": 0.7, "l1": 1e-3, "sam_rho": 0.1},
    "scheduler": {"name": "plateau", "patience": 0},
}
EVERY = os.environ.get("SCALEDL_EXHAUSTIVE") == "1"


@pytest.fixture(scope="module")
def one(together: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """A training in one process, kept for every test that compares with the same config."""
    done: dict[str, Any] = {}

    def get(**config: Any) -> Any:
        key = repr(sorted(config.items()))
        if key not in done:
            done[key] = together(tmp_path_factory.mktemp("one"), 1, config=config, ledger=True)
            assert done[key].code == 0, done[key].error
        return done[key]

    return get


def weights(job: Any) -> dict[str, torch.Tensor]:
    return dict(torch.load(job.folder / "weights.pt", weights_only=True))


def assert_close(job: Any, expected: Any, tolerance: float = 1e-5) -> None:
    assert job.losses == pytest.approx(expected.losses, abs=tolerance)
    assert job.metrics == pytest.approx(expected.metrics, abs=tolerance)
    for name, value in weights(expected).items():
        torch.testing.assert_close(weights(job)[name], value, atol=tolerance, rtol=0, msg=name)


def assert_every_sample_once_an_epoch(*jobs_ledgers: list[dict[str, Any]], epochs: int = 3, passes: int = 1) -> None:
    """`jobs_ledgers`: of all attempts; what an attempt did beyond the checkpoint it left is not counted twice.

    `passes` of a step over its batch.
    """
    seen = Counter((line["epoch"], i) for ledger in jobs_ledgers for line in ledger for i in line["ids"])
    assert len(seen) == epochs * len({i for _, i in seen})
    assert set(seen.values()) == {passes}


VARIANTS: dict[str, tuple[int, dict[str, Any]]] = {
    "ddp": (2, {}),
    "ddp on three ranks": (3, {}),
    "ddp, accumulation, clipping": (2, {"trainer.accumulate": 5, "trainer.gradient_clip": 0.5}),
    "ddp, average of weights": (2, {"trainer.ema_decay": 0.9}),
    "ddp, penalty, SAM, plateau": (2, PLATEAU),
    "ddp, penalties, accumulation, SWA": (2, {**PENALTIES, "trainer.accumulate": 5, "trainer.swa_start": 0.3}),
    "zero 1": (2, ZERO[1]),
    "zero 2": (2, ZERO[2]),
    "zero 3": (2, ZERO[3]),
    "zero 2, accumulation, clipping": (2, {**ZERO[2], "trainer.accumulate": 5, "trainer.gradient_clip": 0.5}),
    "zero 3, accumulation, clipping": (2, {**ZERO[3], "trainer.accumulate": 5, "trainer.gradient_clip": 0.5}),
    "zero 2, penalties, accumulation, SWA": (
        2,
        {**ZERO[2], **PENALTIES, "trainer.accumulate": 5, "trainer.swa_start": 0.3},
    ),
    "zero 3, ftrl": (2, {**ZERO[3], "optimizer": {"name": "ftrl", "lr": 0.1, "l1": 1e-2, "l2": 1e-2}}),
    "zero 2, offloaded": (2, {**ZERO[2], "trainer.deepspeed.offload_optimizer": True}),
    "zero 3, offloaded": (
        2,
        {**ZERO[3], "trainer.deepspeed.offload_optimizer": True, "trainer.deepspeed.offload_parameters": True},
    ),
    "zero 2 on one rank": (1, ZERO[2]),
}


def optimizer_of(config: dict[str, Any]) -> dict[str, Any]:
    return {} if "optimizer" in config else SGD


@pytest.mark.parametrize("name", VARIANTS)
def test_ranks_train_as_one_process_does(
    name: str, together: Callable[..., Any], one: Callable[..., Any], tmp_path: Path
) -> None:
    world_size, config = VARIANTS[name]
    strategy = {key: value for key, value in config.items() if "deepspeed" in key or key == "trainer.strategy"}
    sgd = optimizer_of(config)
    same = {**sgd, **{key: value for key, value in config.items() if key not in strategy}}
    job = together(tmp_path, world_size, config={**sgd, **config}, ledger=True, inspect=True)
    assert job.code == 0, job.error
    assert_close(job, one(**same))
    assert_every_sample_once_an_epoch(job.ledger(), passes=2 if "SAM" in name else 1)
    expected = "deepspeed.runtime.engine.DeepSpeedEngine" if strategy else "ClassificationTask"
    for found in job.inspected():
        assert found["engine"].endswith(expected)
        assert found["near"] == (not strategy), "gradients go through memory"


@pytest.mark.parametrize("name", [name for name in VARIANTS if name.startswith("ddp")])
def test_ranks_that_share_no_memory_train_as_one_process_does(
    name: str, together: Callable[..., Any], one: Callable[..., Any], tmp_path: Path
) -> None:
    world_size, config = VARIANTS[name]
    config = {**optimizer_of(config), **config}
    job = together(tmp_path, world_size, config=config, ledger=True, inspect=True, sockets=True)
    assert job.code == 0, job.error
    assert_close(job, one(**config))
    assert_every_sample_once_an_epoch(job.ledger(), passes=2 if "SAM" in name else 1)
    for found in job.inspected():
        assert found["engine"].endswith("DistributedDataParallel")
        assert not found["near"]


def test_where_memory_cannot_be_shared_gradients_go_through_sockets(
    together: Callable[..., Any], one: Callable[..., Any], tmp_path: Path
) -> None:
    job = together(tmp_path, 2, config=SGD, inspect=True, **{"no room": True})
    assert job.code == 0, job.error
    assert_close(job, one(**SGD))
    assert not any(found["near"] for found in job.inspected())


@pytest.mark.parametrize("sockets", [False, True])
def test_hooks_see_the_gradients_of_all_ranks(sockets: bool, together: Callable[..., Any], tmp_path: Path) -> None:
    for ranks in (1, 2):
        job = together(tmp_path / str(ranks), ranks, config=SGD, norms=True, sockets=sockets)
        assert job.code == 0, job.error
    [alone, *both] = [
        [float(line) for line in (tmp_path / name).read_text().split()]
        for name in ("1/norms-0.txt", "2/norms-0.txt", "2/norms-1.txt")
    ]
    assert len(alone) == 3 * STEPS
    assert both[0] == both[1] == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_each_rank_keeps_its_share_only(
    stage: int, together: Callable[..., Any], one: Callable[..., Any], tmp_path: Path
) -> None:
    job = together(tmp_path, 2, config=ZERO[stage], inspect=True)
    assert job.code == 0, job.error
    assert_close(job, one())  # AdamW, the default
    for found in job.inspected():
        assert found["engine"] == "deepspeed.runtime.engine.DeepSpeedEngine"
        assert found["stage"] == stage
        assert found["optimizer"] == ("DeepSpeedZeroOptimizer_Stage3" if stage == 3 else "DeepSpeedZeroOptimizer")
        bytes_of_all = 4 * found["parameters"]
        assert found["state_bytes"] == pytest.approx(2 * bytes_of_all / 2, rel=0.1)  # two moments, half of each
        assert found["shard_bytes"] == pytest.approx(bytes_of_all / 2 if stage == 3 else 0, rel=0.1)


@pytest.mark.parametrize("stage", [1, 3])
def test_a_training_that_had_only_to_be_handed_over_is(
    stage: int, together: Callable[..., Any], tmp_path: Path
) -> None:
    """Killed between its last checkpoint and the result: no step is left to do."""
    first = together(tmp_path, 2, config=ZERO[stage])
    assert first.code == 0, first.error
    whole = weights(first)
    (tmp_path / "weights.pt").unlink()
    again = together(tmp_path, 2, config=ZERO[stage])
    assert again.code == 0, again.error
    assert all(torch.equal(value, weights(again)[name]) for name, value in whole.items())


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_on_one_rank_gives_the_convolutions_that_plain_training_gives(
    stage: int, together: Callable[..., Any], one: Callable[..., Any], tmp_path: Path
) -> None:
    config = {"model": {"family": "resnet", "depth": 8, "width": 4}, "trainer.channels_last": False}
    job = together(tmp_path, 1, config={**config, **ZERO[stage]})
    assert job.code == 0, job.error
    assert_close(job, one(**config))


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_trains_convolutions_and_takes_over_from_ddp(
    stage: int, together: Callable[..., Any], tmp_path: Path
) -> None:
    """Which one process and DDP keep as channels_last. BatchNorm sees other batches on two ranks: losses differ."""
    config = {"model": {"family": "resnet", "depth": 8, "width": 16}, "trainer.epochs": 2}
    stop = {"rank": 0, "step": 4, "signal": "SIGUSR1"}
    first = together(tmp_path, 1, config=config, stop=stop)
    assert first.code == 75, first.error
    second = together(tmp_path, 2, config={**config, **ZERO[stage]}, inspect=True)
    assert second.code == 0, second.error
    assert {found["stage"] for found in second.inspected()} == {stage}
    assert len(second.losses) == 2 * STEPS
    third = together(tmp_path / "zero", 2, config={**config, **ZERO[stage]}, stop=stop)
    assert third.code == 75, third.error
    fourth = together(tmp_path / "zero", 2, config=config)
    assert fourth.code == 0, fourth.error


Layout = tuple[int, dict[str, Any]]
DDP_1: Layout = (1, {})
DDP_2: Layout = (2, {})
DUAL = {"optimizer": {"name": "adagrad_da", "lr": 0.1, "l1": 1e-3}}
RESUMES: dict[str, tuple[Layout, Layout]] = {
    "2 to 1": (DDP_2, DDP_1),
    "1 to 2": (DDP_1, DDP_2),
    "2 to 3": (DDP_2, (3, {})),
    "zero 3 on 2 to 1": ((2, ZERO[3]), DDP_1),
    "1 to zero 3 on 2": (DDP_1, (2, ZERO[3])),
    "zero 1 to zero 3": ((2, ZERO[1]), (2, ZERO[3])),
    "zero 3 to zero 2 on 3": ((2, ZERO[3]), (3, ZERO[2])),
    "zero 2 to 1, counters of its own": ((2, {**ZERO[2], **DUAL}), (1, DUAL)),
    "1 to zero 3, counters of its own": ((1, DUAL), (2, {**ZERO[3], **DUAL})),
    "2 to 2 with workers": ((2, {"data.num_workers": 2}), (2, {"data.num_workers": 1})),
}
BEFORE_THE_LAST = range(1, 3 * STEPS - 1)  # of which all ranks know before the last step
STOPS = BEFORE_THE_LAST if EVERY else (8,)


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("name", RESUMES)
def test_a_run_goes_on_on_another_layout(
    name: str, stop: int, together: Callable[..., Any], one: Callable[..., Any], tmp_path: Path
) -> None:
    (ranks_before, config_before), (ranks_after, config_after) = RESUMES[name]
    plan = {"ledger": True, "stop": {"rank": ranks_before - 1, "step": stop, "signal": "SIGUSR1"}}
    first = together(tmp_path, ranks_before, config=config_before, **plan)
    assert first.code == 75, first.error
    assert "checkpoint saved" in first.error
    second = together(tmp_path, ranks_after, config=config_after, ledger=True)
    assert second.code == 0, second.error
    assert_close(second, one(**(DUAL if "optimizer" in config_after else {})))
    assert_every_sample_once_an_epoch(second.ledger())


def test_a_signal_before_the_last_step_lets_it_finish(together: Callable[..., Any], whole: Any, tmp_path: Path) -> None:
    job = together(tmp_path, 2, stop={"rank": 1, "step": 3 * STEPS - 1, "signal": "SIGTERM"})
    assert job.code == 0, job.error
    assert job.losses == whole.losses


@pytest.mark.parametrize("stop", BEFORE_THE_LAST if EVERY else (5, 6, 9))
def test_on_the_same_ranks_a_resumed_run_is_the_same_bit_for_bit(
    stop: int, together: Callable[..., Any], whole: Any, tmp_path: Path
) -> None:
    """Also at the end of an epoch (after step 6), and one step before it."""
    plan = {"ledger": True, "stop": {"rank": 1, "step": stop, "signal": "SIGTERM"}}
    first = together(tmp_path, 2, **plan)
    assert first.code == 75, first.error
    second = together(tmp_path, 2, ledger=True)
    assert second.code == 0, second.error
    assert second.losses == whole.losses
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(second).items())
    assert_every_sample_once_an_epoch(second.ledger())


@pytest.fixture(scope="module")
def whole(together: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    job = together(tmp_path_factory.mktemp("whole"), 2)
    assert job.code == 0, job.error
    return job


# Faults


@pytest.mark.parametrize("config", [{}, ZERO[2], ZERO[3]], ids=["ddp", "zero 2", "zero 3"])
def test_a_loss_that_is_nan_on_one_rank_is_left_out_by_all(
    config: dict[str, Any], together: Callable[..., Any], tmp_path: Path
) -> None:
    job = together(tmp_path, 2, config=config, spoil={"kind": "nan", "rank": 1, "steps": [4]})
    assert job.code == 0, job.error
    assert [i for i, loss in enumerate(job.losses) if loss is None] == [4]
    assert "rank 1" in job.written
    assert "this step is left out" in job.written
    alone = together(tmp_path / "alone", 1, config={}, spoil={"kind": "nan", "rank": 0, "steps": [4]})
    assert job.losses[:4] == pytest.approx(alone.losses[:4], abs=1e-5)
    assert job.losses[5:] == pytest.approx(alone.losses[5:], abs=1e-5)


def test_too_many_of_them_in_a_row_end_all_ranks(together: Callable[..., Any], tmp_path: Path) -> None:
    spoil = {"kind": "nan", "rank": 1, "steps": list(range(3, 20))}
    job = together(tmp_path, 2, config={"trainer.max_nonfinite_steps": 2}, spoil=spoil)
    assert job.code == 1, job.error
    assert "NonFiniteLossError: a rank's loss is not finite, 3 times in a row" in job.error


@pytest.mark.parametrize("config", [{}, ZERO[2]], ids=["ddp", "zero 2"])
def test_out_of_memory_on_one_rank_halves_the_micro_batch_of_all(
    config: dict[str, Any], together: Callable[..., Any], one: Callable[..., Any], tmp_path: Path
) -> None:
    """From the same step, with the same batch: nothing is lost and the losses are the same."""
    spoil = {"kind": "oom", "rank": 1, "above": 30}
    job = together(tmp_path, 2, config=config, spoil=spoil, ledger=True)
    assert job.code == 0, job.error
    assert "OUT OF MEMORY: step 1: a micro-batch of rank 1 does not fit" in job.written
    assert "5 micro-batches of 50 samples, not 2 of 125; the batch of an optimizer step stays 250" in job.written
    assert_close(job, one())
    assert max(len(line["ids"]) for line in job.ledger()) <= 125


def test_out_of_memory_later_goes_on_from_the_step_before(
    together: Callable[..., Any], one: Callable[..., Any], tmp_path: Path
) -> None:
    """Stopped, resumed where memory is tighter: no step is done twice."""
    first = together(tmp_path, 2, stop={"rank": 0, "step": 8, "signal": "SIGUSR1"})
    assert first.code == 75, first.error
    second = together(tmp_path, 2, spoil={"kind": "oom", "rank": 1, "above": 70})
    assert second.code == 0, second.error
    assert "OUT OF MEMORY" in second.written
    assert_close(second, one())


@pytest.mark.parametrize("world_size", [1, 2])
def test_out_of_memory_in_a_backward_pass_halves_it_as_well(
    world_size: int, together: Callable[..., Any], one: Callable[..., Any], tmp_path: Path
) -> None:
    spoil = {"kind": "oom in backward", "rank": world_size - 1, "above": 70}
    job = together(tmp_path, world_size, spoil=spoil, ledger=True)
    assert job.code == 0, job.error
    assert "OUT OF MEMORY: step 1: a micro-batch" in job.written
    assert "the batch of an optimizer step stays 250" in job.written
    assert_close(job, one())


def test_out_of_memory_with_one_sample_is_the_end(together: Callable[..., Any], tmp_path: Path) -> None:
    job = together(tmp_path, 2, config={"data.batch_size": 4}, spoil={"kind": "oom", "rank": 0, "above": 0})
    assert job.code == 1, job.error
    assert "cannot be cut from data.batch_size 4" in job.error


def test_what_fails_on_another_rank_is_told_by_the_first(together: Callable[..., Any], tmp_path: Path) -> None:
    job = together(tmp_path, 2, fresh=True, spoil={"kind": "raise", "rank": 1, "steps": [7]})
    assert job.code == 1, job.error
    assert "ScaledlError: rank 1 on " in job.error
    assert "failed: ValueError: made up by the test" in job.error


@pytest.mark.parametrize(
    "task",
    [
        {"class_weights": "balanced", "loss": "focal", "metrics": ["auroc", "f1", "calibration_error"]},
        {"name": "semi_supervised", "unlabeled_fraction": 0.5, "confidence": 0.2},
    ],
    ids=["weights and figures", "samples without a label"],
)
def test_losses_and_figures_of_a_task_are_those_of_one_process(
    together: Callable[..., Any], tmp_path: Path, task: dict[str, Any]
) -> None:
    alone, both = (together(tmp_path / str(ranks), ranks, config={**SGD, "task": task}) for ranks in (1, 2))
    assert (alone.code, both.code) == (0, 0), both.error
    assert len(both.metrics) == 2 + len(task.get("metrics", []))
    assert_close(both, alone)


VIEWS = {"data.augment.crop": 1, "data.augment.brightness": 0.4}
CONTRASTIVE = {**SGD, **VIEWS, "task": {"name": "contrastive", "embedding": 16, "temperature": 0.2}}


@pytest.mark.parametrize(
    ("world_size", "config"),
    [
        (2, {}),
        (3, {"trainer.accumulate": 5}),
        (2, {"task": {"name": "contrastive", "embedding": 16, "loss": "triplet"}}),
        (2, ZERO[2]),
        (2, {"data.batch_size": 431, "data.eval_batch_size": 1}),  # the last step has one sample, for two ranks
    ],
    ids=["2", "3 with accumulation", "triplets", "zero 2", "a rank without a sample"],
)
def test_every_sample_is_told_from_those_of_all_ranks(
    world_size: int, config: dict[str, Any], together: Callable[..., Any], one: Callable[..., Any], tmp_path: Path
) -> None:
    config = {**CONTRASTIVE, **config}
    job = together(tmp_path, world_size, config=config)
    assert job.code == 0, job.error
    alone = one(**{key: value for key, value in config.items() if key not in ZERO[2]})
    assert_close(job, alone, 1e-4 if config["task"].get("loss") == "triplet" else 1e-5)  # distances near 0 are steep


def test_with_views_of_all_ranks_one_out_of_memory_is_no_deadlock(together: Callable[..., Any], tmp_path: Path) -> None:
    config = {**CONTRASTIVE, "data.eval_batch_size": 100}
    job = together(tmp_path, 2, config=config, spoil={"kind": "oom", "rank": 1, "above": 70})
    assert job.code == 0, job.error
    assert "OUT OF MEMORY: step 1: a micro-batch of rank 1 does not fit into memory" in job.written
