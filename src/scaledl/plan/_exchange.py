"""One of two ranks that reduce a buffer together, run as `python -m scaledl.plan._exchange RANK STORE BYTES`."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from statistics import median

import torch
from torch import distributed

ROUNDS, WARM_UP = 8, 2


def main(rank: int, store: str, size: int) -> None:
    torch.set_num_threads(1)
    timeout = timedelta(seconds=60)
    distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2, timeout=timeout)
    buffer = torch.ones(max(1, size // 4))
    times = []
    for _ in range(ROUNDS):
        distributed.barrier()
        started = time.monotonic()
        distributed.all_reduce(buffer)
        times.append(time.monotonic() - started)
    distributed.destroy_process_group()
    if rank == 0:
        print(buffer.nbytes / median(times[WARM_UP:]))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
