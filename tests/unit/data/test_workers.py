"""Batches that worker processes prepare: the same ones, in the same order; workers and stop signals."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from scaledl.config.schema import AugmentConfig, DataConfig
from scaledl.data import Batch, DataModule, build_data
from scaledl.data.loader import BatchLoader
from scaledl.data.workers import prepared
from scaledl.errors import ScaledlError, UsageError

pytestmark = pytest.mark.unit

AUGMENT = AugmentConfig(crop=1, flip=True)


@pytest.fixture(scope="module")
def data() -> DataModule:
    return build_data(DataConfig(), 0)


def loader(data: DataModule, num_workers: int) -> BatchLoader:
    return data.train_loader(200, AUGMENT, 0, rank=1, world_size=2, num_workers=num_workers)


def children() -> set[int]:
    me = str(os.getpid())
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[1] == me and fields[0] not in "ZX":
            found.add(int(stat.parent.name))
    return found


def test_they_are_what_one_process_makes(data: DataModule) -> None:
    before = torch.get_rng_state()
    for plain, found in zip(loader(data, 0), loader(data, 2), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_position_counts_what_was_yielded_not_what_was_prepared(data: DataModule) -> None:
    first = loader(data, 2)
    batches = iter(first)
    seen = [next(batches).ids for _ in range(3)]
    state = first.state_dict()
    del batches
    assert state["consumed"] == 600
    second = loader(data, 1)
    second.load_state_dict(state)
    rest = [batch.ids for batch in second]
    whole = [batch.ids for batch in loader(data, 0)]
    assert torch.equal(torch.cat([*seen, *rest]), torch.cat(whole))


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_workers_live_through_stop_signals(data: DataModule, signum: int) -> None:
    before = children()
    batches = iter(loader(data, 2))
    next(batches)
    for pid in children() - before:
        os.kill(pid, signum)
    assert len(list(batches)) == len(loader(data, 0)) - 1


def test_a_worker_that_is_killed_is_named_within_seconds(data: DataModule) -> None:
    before = children()  # of earlier tests in this process, such as a pool of ranks
    batches = iter(loader(data, 1))
    next(batches)
    [pid] = children() - before
    os.kill(pid, signal.SIGSTOP)  # else it may have prepared all there is
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(ScaledlError, match=rf"data.num_workers: DataLoader worker \(pid.*{pid}"):
        list(batches)
    assert time.monotonic() - began < 10


class _Own(UsageError):
    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one}: {other}")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UsageError("shard 3: gone"), UsageError),
        (ScaledlError("shard 3: gone"), ScaledlError),
        (_Own("shard 3", "gone"), UsageError),
    ],
)
def test_an_error_in_a_worker_reads_as_it_does_without_one(error: ScaledlError, kind: type[ScaledlError]) -> None:
    def batch(rows: torch.Tensor, epoch: int) -> Batch:
        if int(rows[0]) == 2:
            raise error
        return Batch(rows.float(), rows, rows)

    batches = prepared(batch, torch.arange(4).split(1), 0, 2)
    assert [int(next(batches).ids) for _ in range(2)] == [0, 1]
    with pytest.raises(kind) as raised:
        next(batches)
    assert (type(raised.value), str(raised.value)) == (kind, "shard 3: gone")
