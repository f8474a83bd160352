"""What ranks of one machine say to each other over memory that they share: microseconds instead of a network's.

Only on x86, which never lets others see stores in another order than they were made; elsewhere gloo does all of it.
"""

from __future__ import annotations

import mmap
import os
import platform
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from scaledl.distributed.ranks import Ranks

FOLDER = Path("/dev/shm")  # noqa: S108  # files there are made with O_EXCL and unlinked at once
MAX_VALUES = 32  # in one exchange of numbers
_LINE = 64  # bytes of a cache line, which two ranks must not both write
_SPINS = 3_000  # some 200 microseconds
_YIELD_SECONDS, _PAUSE = 0.005, 0.0002
_LOOK_SECONDS = 0.2  # between two looks at what else ranks said


class Near:
    """Meetings of ranks that share memory. Every call is a collective: all ranks make the same ones, in one order."""

    def __init__(self, ranks: Ranks, control: memoryview, check: Callable[[], None]) -> None:
        self.ranks = ranks
        self._check = check
        self._count = 0
        world = ranks.world_size
        words = control.cast("B").cast("q")
        stride = _LINE // 8
        self._mine, self._arrived = ranks.rank * stride, words[: world * stride]
        self._others = [rank * stride for rank in range(world) if rank != ranks.rank]
        size = world * MAX_VALUES
        self._slots = [words[world * stride + side * size :][:size] for side in (0, 1)]

    @staticmethod
    def control_bytes(world_size: int) -> int:
        """Size of the memory for barriers and numbers."""
        return world_size * (_LINE + 2 * 8 * MAX_VALUES)

    def barrier(self) -> None:
        """Until all ranks are here. Raises RuntimeError when one does not come, or has said that it failed."""
        self._count += 1
        arrived, count = self._arrived, self._count
        arrived[self._mine] = count
        for other in self._others:
            if arrived[other] < count:
                self._wait(other)

    def _wait(self, other: int) -> None:
        arrived, count = self._arrived, self._count
        for _ in range(_SPINS):
            if arrived[other] >= count:
                return
        began = looked = time.monotonic()
        while arrived[other] < count:
            now = time.monotonic()
            if now - began < _YIELD_SECONDS:
                os.sched_yield()
            else:
                time.sleep(_PAUSE)
            try:
                if now - looked > _LOOK_SECONDS:
                    looked = now
                    self._check()
                if now - began > self.ranks.timeout_seconds:
                    raise RuntimeError(f"timed out waiting {self.ranks.timeout_seconds:g} s for a rank of this machine")
            except RuntimeError:
                if arrived[other] < count:  # else it came while we looked elsewhere
                    raise

    def max_(self, values: list[int]) -> list[int]:
        """The largest of all ranks, one by one; at most 32 numbers."""
        assert len(values) <= MAX_VALUES
        slots = self._slots[self._count % 2]  # whoever reads the other side has not met us here yet
        place = self.ranks.rank * MAX_VALUES
        for number, value in enumerate(values):
            slots[place + number] = value
        self.barrier()
        found = [slots[start : start + len(values)] for start in range(0, len(slots), MAX_VALUES)]
        return [max(each) for each in zip(*found, strict=True)]

    def region(self, size: int) -> Tensor | None:
        """Bytes that all ranks see, zero at first; None where there is no room for them. Slow: not for every step."""
        return share_memory(self.ranks, size)


def meet_near(ranks: Ranks, check: Callable[[], None]) -> Near | None:
    """For ranks that are all on this machine; None where they are not, or cannot share memory.

    `check` raises RuntimeError when a rank that others wait for is not going to come.
    """
    spec = ranks.spec
    alike = sys.platform == "linux" and platform.machine() == "x86_64"
    together = ranks.several and spec is not None and spec.local_world_size == ranks.world_size
    if not (alike and together):
        return None
    control = share_memory(ranks, Near.control_bytes(ranks.world_size))
    return None if control is None else Near(ranks, memoryview(control.numpy()), check)  # type: ignore[arg-type]


def share_memory(ranks: Ranks, size: int) -> Tensor | None:
    """Zeroed bytes in a file without a name, which goes when the last rank does, however that ends.

    It gets its size when it has lost its name, so that a rank that is killed in between leaves nothing large.
    """
    path, file = FOLDER / f"scaledl-{secrets.token_hex(8)}", -1
    try:
        if ranks.is_main:
            file = _opened(path, os.O_CREAT | os.O_EXCL)
        [name, *_] = ranks.gather_bytes(path.name.encode())
        if not ranks.is_main:
            file = _opened(FOLDER / name.decode(), os.O_NOFOLLOW)
        everywhere = not ranks.max_(torch.tensor([int(file < 0)])).item()
        if ranks.is_main:
            path.unlink(missing_ok=True)
        [full] = ranks.max_(torch.tensor([int(everywhere and ranks.is_main and not _has_room(file, size))])).tolist()
        if full or not everywhere:
            return None
        return torch.frombuffer(mmap.mmap(file, size), dtype=torch.uint8)
    finally:
        if ranks.is_main:
            path.unlink(missing_ok=True)
        if file >= 0:
            os.close(file)


def _opened(path: Path, flags: int) -> int:
    try:
        return os.open(path, os.O_RDWR | flags, 0o600)
    except OSError:
        return -1


def _has_room(file: int, size: int) -> bool:
    try:
        os.posix_fallocate(file, 0, size)  # without it a full disk would kill whoever writes there
    except OSError:
        return False
    return True
