"""One of several ranks of this machine: `python near_program.py RANK WORLD_SIZE PORT FOLDER WHAT`."""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

from scaledl.distributed import gradients, near
from scaledl.distributed.environment import ClusterSpec
from scaledl.distributed.gradients import SharedGradients
from scaledl.distributed.ranks import Ranks, join


def sums(ranks: Ranks, folder: Path) -> None:
    """Several rounds: what everybody had, and what each got."""
    assert ranks.near is not None
    gradients.CHUNK = 256
    torch.manual_seed(7)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 61), nn.Linear(61, 9))
    module[0].to(memory_format=torch.channels_last)
    buffers = list(module.buffers())
    torch.manual_seed(ranks.rank)
    for private in (False, True):
        parameters = list(module.parameters())
        shared = SharedGradients.create(ranks.near, parameters, buffers, private=private)
        assert shared is not None
        for number in range(5):
            for place, parameter in enumerate(parameters):
                parameter.grad = torch.randn_like(parameter)
                if number == 1 and place == 2:
                    parameter.grad = None  # nobody has it
                if number == 2 and place == 4 and ranks.rank == 1:
                    parameter.grad = None  # others do
                if number == 3 and place == 0:
                    parameter.grad = parameter.grad.contiguous()  # not as the parameter lies
            for buffer in buffers:
                buffer.fill_(10 * number + ranks.rank)
            before = [None if p.grad is None else p.grad.clone() for p in parameters]
            shared.exchange()
            after = [None if p.grad is None else p.grad.clone() for p in parameters]
            if private:
                for parameter in parameters:
                    if parameter.grad is not None:
                        parameter.grad.mul_(0)  # as clipping would
            found = {"before": before, "after": after, "buffers": [buffer.clone() for buffer in buffers]}
            torch.save(found, folder / f"{int(private)}-{number}-{ranks.rank}.pt")
            module.zero_grad(set_to_none=True)


def numbers(ranks: Ranks, folder: Path) -> None:
    assert ranks.near is not None
    seen = [
        ranks.max_of([step + ranks.rank, -step, ranks.rank if step % 3 == ranks.rank else 0]) for step in range(300)
    ]
    (folder / f"{ranks.rank}.json").write_text(json.dumps(seen))


def observers(ranks: Ranks, folder: Path) -> None:
    """Buffers that take shape after the first step."""
    assert ranks.near is not None
    layer = nn.Linear(2, 2)
    layer.register_buffer("range", torch.zeros(0))
    shared = SharedGradients.create(ranks.near, list(layer.parameters()), list(layer.buffers()), private=False)
    assert shared is not None
    for size in (0, 3, 3):
        layer.range.resize_(size).fill_(ranks.rank + 1)  # type: ignore[union-attr, operator]
        layer.weight.grad, layer.bias.grad = torch.ones(2, 2), torch.ones(2)
        shared.exchange()
    torch.save(layer.range, folder / f"{ranks.rank}.pt")


def no_room(ranks: Ranks, folder: Path) -> None:
    assert ranks.near is not None
    near.FOLDER = folder  # a small one
    big = ranks.near.region(1 << 24)
    small = ranks.near.region(1 << 12)
    (folder / f"{ranks.rank}.json").write_text(json.dumps([big is None, small is None]))


def absent(ranks: Ranks, folder: Path) -> None:
    """Rank 1 does not come."""
    assert ranks.near is not None
    if ranks.rank == 0:
        ranks.timeout_seconds = 1.0
        try:
            ranks.near.barrier()
        except RuntimeError as error:
            (folder / "0.json").write_text(json.dumps(str(error)))
    distributed.barrier()


def failed(ranks: Ranks, folder: Path) -> None:
    """Rank 1 says that it failed, while rank 0 waits for it."""
    assert ranks.near is not None
    if ranks.rank == 1:
        ranks._failed(ValueError("on purpose"))
        return
    try:
        ranks.near.barrier()
    except RuntimeError as error:
        (folder / "0.json").write_text(json.dumps(str(ranks.blame(error))))


def main(rank: int, world_size: int, port: int, folder: Path, what: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    spec = ClusterSpec("env", rank, rank, 0, world_size, world_size, 1, (), "127.0.0.1", port, "near", None, 0)
    store = distributed.TCPStore("127.0.0.1", port, world_size, rank == 0, timedelta(seconds=60))
    ranks = join(spec, store, backend="gloo", device=None, timeout_seconds=30)
    cases: dict[str, Any] = {
        function.__name__: function for function in (sums, numbers, observers, no_room, absent, failed)
    }
    cases[what](ranks, folder)
    if what != "failed":
        distributed.barrier()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5])
