"""What ranks say to each other over their store: each gives a value, rank 0 judges them all, and all hear the verdict.

Asks the store again and again instead of waiting in it: so a stop signal is heard, and torch prints no warnings.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from scaledl.distributed.preemption import stop_flag
from scaledl.errors import ScaledlError, UsageError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

Json = Any
Judge = Callable[[dict[int, Json]], Json]

_FAREWELL_SECONDS = 3.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.2


def pauses(deadline: float) -> Iterator[None]:
    """Sleep, shortly at first, between two looks at something; ends at the deadline. Raises where a signal came."""
    pause = _FIRST_PAUSE
    while (left := deadline - time.monotonic()) > 0:
        stop_flag.raise_if_set("training had not begun")
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, _LONGEST_PAUSE)
        yield


def await_keys(store: Store, keys: Sequence[str], deadline: float) -> bool:
    """Whether all keys are there before the deadline."""
    if has(store, keys):
        return True
    return any(has(store, keys) for _ in pauses(deadline))


def has(store: Store, keys: Sequence[str]) -> bool:
    """Whether all keys are there now."""
    if not keys:
        return True
    with _store_errors():
        return bool(store.check(list(keys)))


def put(store: Store, key: str, value: Json) -> None:
    with _store_errors():
        store.set(key, json.dumps(value))


def get(store: Store, key: str) -> Json:
    """A value that is there. It came from another process: it is read as JSON and nothing else."""
    with _store_errors():
        return json.loads(store.get(key))


def collect(store: Store, name: str, world_size: int, deadline: float) -> dict[int, Json]:
    """Rank 0: what the ranks put under `name`, of those that did so before the deadline."""
    keys = {rank: f"{name}/{rank}" for rank in range(world_size)}
    if await_keys(store, list(keys.values()), deadline):
        return {rank: get(store, key) for rank, key in keys.items()}
    return {rank: get(store, key) for rank, key in keys.items() if has(store, [key])}


def settle(
    store: Store,
    name: str,
    rank: int,
    world_size: int,
    mine: Json,
    judge: Judge,
    seconds: float,
    *,
    late_seconds: float = 10.0,
) -> Json:
    """Put `mine`; rank 0 judges what there is after `seconds` at most, and all get its verdict or raise its error.

    On other ranks than 0 that error is marked as told. `late_seconds`: how much later rank 0 may come than another.
    """
    deadline = time.monotonic() + seconds
    put(store, f"{name}/{rank}", mine)
    if rank:
        return hear(store, name, rank, deadline + late_seconds)
    return rule(store, name, collect(store, name, world_size, deadline), judge)


def rule(store: Store, name: str, values: dict[int, Json], judge: Judge) -> Json:
    """Rank 0: judge and tell. After an error it stays until those who wait have heard it: the store ends with it."""
    try:
        verdict = judge(values)
    except ScaledlError as error:
        put(store, f"{name}/verdict", {"error": str(error), "code": error.exit_code})
        others = [f"{name}/heard/{rank}" for rank in values if rank]
        await_keys(store, others, time.monotonic() + _FAREWELL_SECONDS)
        raise
    put(store, f"{name}/verdict", {"verdict": verdict})
    return verdict


def hear(store: Store, name: str, rank: int, deadline: float) -> Json:
    """Another rank: rank 0's verdict, or its error."""
    key = f"{name}/verdict"
    if not await_keys(store, [key], deadline):
        raise ScaledlError("rank 0 did not answer in time; its own messages say why, if it still runs")
    said: Mapping[str, Json] = get(store, key)
    if "error" in said:
        put(store, f"{name}/heard/{rank}", True)
        raise told(said["error"], said["code"])
    return said["verdict"]


def told(message: str, code: int) -> ScaledlError:
    """An error that rank 0 has said, or will."""
    kind = UsageError if code == UsageError.exit_code else ScaledlError
    error = kind(message)
    error.told = True
    return error


@contextmanager
def _store_errors() -> Iterator[None]:
    """Those of the store in one line: it lives in rank 0."""
    from torch.distributed import DistError

    try:
        yield
    except DistError as error:
        raise ScaledlError("rank 0 is gone, and the ranks' common store with it") from error
