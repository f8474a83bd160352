"""Ranks on a node against what the config asks for and what the node has."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any

import pytest

from scaledl.config import Config
from scaledl.config import replace as replace_keys
from scaledl.distributed.devices import check_devices
from scaledl.distributed.environment import ClusterSpec
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

SRUN = ClusterSpec(
    launcher="slurm",
    rank=3,
    local_rank=1,
    node_rank=1,
    world_size=4,
    local_world_size=2,
    num_nodes=2,
    nodes=("n1", "n2"),
    master_addr="n1",
    master_port=None,
    launch_id="slurm-1.0-r0",
    job_id="1",
    restart=0,
)
TORCHRUN = replace(SRUN, launcher="env", nodes=(), master_port=29500, job_id=None)
ONE_TASK = replace(SRUN, rank=0, local_rank=0, node_rank=0, world_size=2, local_world_size=1)


@pytest.mark.parametrize(
    ("spec", "keys", "gpus"),
    [
        (SRUN, {}, 0),
        (SRUN, {}, 2),
        (SRUN, {}, 4),
        (SRUN, {"trainer.devices": 2, "trainer.num_nodes": 2}, 2),
        (TORCHRUN, {"trainer.devices": 2, "trainer.num_nodes": 2}, 0),
        (TORCHRUN, {"trainer.sync_batchnorm": True}, 2),
        (ONE_TASK, {"trainer.devices": 1}, 8),
        (replace(ONE_TASK, launcher="env"), {}, 8),
    ],
)
def test_what_fits_passes(spec: ClusterSpec, keys: dict[str, Any], gpus: int) -> None:
    check_devices(spec, replace_keys(Config(), keys), gpus)


@pytest.mark.parametrize(
    ("spec", "keys", "gpus", "said"),
    [
        (
            *(SRUN, {"trainer.devices": 4}, 0),
            "trainer.devices: got 4, but srun started 2 ranks on this node; allowed: 2, auto; to have 4, start with "
            "--ntasks-per-node=4",
        ),
        (
            *(TORCHRUN, {"trainer.devices": 1}, 0),
            "trainer.devices: got 1, but the launcher started 2 ranks on this node; allowed: 2, auto; to have 1, start "
            "1 rank a node (torchrun --nproc-per-node=1)",
        ),
        (
            *(SRUN, {"trainer.num_nodes": 4}, 0),
            "trainer.num_nodes: got 4, but srun started ranks on 2 nodes (n1, n2); allowed: 2, auto; to have 4, start "
            "with sbatch --nodes=4",
        ),
        (
            *(TORCHRUN, {"trainer.num_nodes": 1}, 0),
            "trainer.num_nodes: got 1, but the launcher started ranks on 2 nodes; allowed: 2, auto; to have 1, start "
            "with torchrun --nnodes=1",
        ),
        (
            *(SRUN, {}, 1),
            "GPUs: this node shows 1 to each of its 2 ranks; allowed: at most 1 a node, or trainer.accelerator=cpu; "
            "start with --ntasks-per-node=1; --gpus-per-task and --gpu-bind hide the others: use --gpus-per-node",
        ),
        (
            *(TORCHRUN, {}, 1),
            "GPUs: this node shows 1 to each of its 2 ranks; allowed: at most 1 a node, or trainer.accelerator=cpu; "
            "start 1 rank a node (torchrun --nproc-per-node=1)",
        ),
        (
            *(ONE_TASK, {}, 8),
            "GPUs: this node has 8 of them but one task, and the others would idle; start with --ntasks-per-node=8, "
            "or say trainer.devices=1 to use one",
        ),
        (
            *(ONE_TASK, {"trainer.devices": 8}, 8),
            "trainer.devices: got 8, but srun started 1 rank on this node; allowed: 1, auto; to have 8, start with "
            "--ntasks-per-node=8",
        ),
        (
            *(SRUN, {"trainer.sync_batchnorm": True}, 0),
            "trainer.sync_batchnorm: got true, but these ranks train on CPUs; allowed there: false; PyTorch has it for "
            "GPUs only",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_fix(
    spec: ClusterSpec, keys: dict[str, Any], gpus: int, said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        check_devices(spec, replace_keys(Config(), keys), gpus)
    assert str(caught.value) == said


def test_deepspeed_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "deepspeed" else find(name))
    with pytest.raises(UsageError, match=r"deepspeed is not installed; .*scaledl\[deepspeed\]"):
        check_devices(SRUN, replace_keys(Config(), {"trainer.strategy": "deepspeed"}), 0)
