"""Neighbours in a ring measure their link, one pair at a time; then all of them reduce a tensor again and again.

Everything is bounded in time: a rank that stands still makes its neighbours give up, say so over the store, and go on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from statistics import median
from types import TracebackType
from typing import TYPE_CHECKING, Any

from scaledl.doctor.links import ring_rounds

if TYPE_CHECKING:
    from torch import Tensor

ANSWER_SECONDS = 15.0  # longest wait for one message
_ECHO, _TAKE, _GIVE, _END = range(4)
_PINGS = 50
_FIRST_BYTES, _LAST_BYTES, _GROWTH = 16 * 2**10, 64 * 2**20, 4
_REPEATS = 2
_ENOUGH_SECONDS = 0.25
_REDUCED_BYTES = {"gloo": 4 * 2**20, "nccl": 64 * 2**20}
_PULSE_SECONDS = 0.05


class Pulse:
    """A thread that notices when this process stood still: `longest` is the longest time between two beats."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="scaledl-pulse", daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _beat(self) -> None:
        last = time.monotonic()
        while not self._end.wait(_PULSE_SECONDS):
            moment = time.monotonic()
            self.longest = max(self.longest, moment - last - _PULSE_SECONDS)
            last = moment


def measure_links(rank: int, world_size: int, seconds: float) -> list[dict[str, Any]]:
    """What this rank measured of the links that it begins, or why it could not, for up to `seconds` each."""
    found = []
    for pairs in ring_rounds(world_size):
        for a, b in pairs:
            if rank not in (a, b):
                continue
            result: dict[str, Any] = {"a": a, "b": b}
            try:
                if rank == a:
                    result |= _lead(b, seconds)
                else:
                    _answer(a)
            except RuntimeError as error:
                result["error"] = str(error).partition("\n")[0][:200]
            if rank == a or "error" in result:
                found.append(result)
    return found


def _lead(peer: int, seconds: float) -> dict[str, float]:
    deadline = time.monotonic() + seconds
    times = []
    for _ in range(_PINGS):
        times.append(_timed(lambda: _ask(peer, _ECHO, 8)))
        if time.monotonic() > deadline - seconds * 0.75:
            break
    latency = min(times) / 2  # of the link: busy processors only ever add to it
    there = _bandwidth(peer, _TAKE, deadline - seconds * 0.375)
    back = _bandwidth(peer, _GIVE, deadline)
    _send(peer, _header(_END, 0))
    return {"latency": latency, "bandwidth": min(there, back)}


def _bandwidth(peer: int, kind: int, deadline: float) -> float:
    """Bytes a second, of the largest message for which there is time: the best of a few, for the same reason."""
    size, taken = _FIRST_BYTES, _message_seconds(peer, kind, _FIRST_BYTES)
    while taken < _ENOUGH_SECONDS and size < _LAST_BYTES and time.monotonic() + taken * _GROWTH < deadline:
        size *= _GROWTH
        taken = _message_seconds(peer, kind, size)
    for _ in range(_REPEATS):
        if time.monotonic() + taken > deadline:
            break
        taken = min(taken, _message_seconds(peer, kind, size))
    return size / taken


def _message_seconds(peer: int, kind: int, size: int) -> float:
    return max(_timed(lambda: _ask(peer, kind, size)), 1e-9)


def _ask(peer: int, kind: int, size: int) -> None:
    """One question, and the whole of its answer."""
    _send(peer, _header(kind, size))
    if kind == _TAKE:
        _send(peer, _bytes(size))
    _receive(peer, size if kind == _GIVE else 8)


def _answer(peer: int) -> None:
    while True:
        kind, size = (int(number) for number in _receive(peer, 16).view(_int64()))
        if kind == _END:
            return
        if kind == _TAKE:
            _receive(peer, size)
        _send(peer, _bytes(size if kind == _GIVE else 8))


def reduce_for(seconds: float, backend: str, group: Any, device: Any) -> dict[str, Any]:
    """All-reduces of one tensor by all ranks, about so long. Raises RuntimeError when a rank does not take part."""
    import torch

    size = _REDUCED_BYTES[backend]
    tensor = torch.zeros(size // 4, device=device)
    usual = median(_timed(lambda: _reduce(tensor, group, device)) for _ in range(5))
    slowest = torch.tensor([usual], device=device)
    _reduce(slowest, group, device, largest=True)
    count = max(3, min(100_000, int(seconds / float(slowest[0]))))
    times = sorted(_timed(lambda: _reduce(tensor, group, device)) for _ in range(count))
    return {
        "backend": backend,
        "bytes": size,
        "count": count,
        "median": times[count // 2],
        "p95": times[int(count * 0.95)],
        "longest": times[-1],
    }


def _reduce(tensor: Tensor, group: Any, device: Any, *, largest: bool = False) -> None:
    """Asks whether it is done instead of waiting for it: NCCL would end the process after its own timeout."""
    from torch import cuda, distributed

    operation = distributed.ReduceOp.MAX if largest else distributed.ReduceOp.SUM
    work = distributed.all_reduce(tensor, operation, group=group, async_op=True)
    deadline = time.monotonic() + ANSWER_SECONDS
    pause = 1e-5
    while not work.is_completed():
        if time.monotonic() > deadline:
            raise RuntimeError(f"no answer within {ANSWER_SECONDS:g} s")
        time.sleep(pause)
        pause = min(2 * pause, 1e-3)
    work.wait()
    if device is not None and device.type == "cuda":
        cuda.synchronize(device)


def _timed(act: Callable[[], None]) -> float:
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


def _header(kind: int, size: int) -> Tensor:
    import torch

    return torch.tensor([kind, size], dtype=torch.int64).view(torch.uint8)


def _bytes(size: int) -> Tensor:
    import torch

    return torch.zeros(size, dtype=torch.uint8)


def _int64() -> Any:
    import torch

    return torch.int64


def _send(peer: int, tensor: Tensor) -> None:
    from torch import distributed

    work = distributed.isend(tensor, peer)
    assert work is not None
    work.wait(timedelta(seconds=ANSWER_SECONDS))


def _receive(peer: int, size: int) -> Tensor:
    from torch import distributed

    tensor = _bytes(size)
    work = distributed.irecv(tensor, peer)
    assert work is not None
    work.wait(timedelta(seconds=ANSWER_SECONDS))
    return tensor


def leave_group() -> None:
    """Also where a peer hangs: then what is left of the group ends with the process."""
    from torch import distributed

    with suppress(Exception):
        if distributed.is_initialized():
            distributed.destroy_process_group()
