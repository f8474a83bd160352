"""The ranks of a job: rank 0 runs a verb, the others follow it into the parts that all do together.

Rank 0 calls `Ranks.call(name, ...)`; every other rank sits in `follow` and runs the function of that name. What goes
between them is JSON over the job's store, and tensors over process groups. No object is ever pickled.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from scaledl.distributed.exchange import has
from scaledl.distributed.missing import ranks as numbers
from scaledl.errors import Interrupted, Preempted, ScaledlError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from scaledl.distributed.environment import ClusterSpec
    from scaledl.distributed.near import Near

Message = dict[str, Any]
Handlers = Mapping[str, Callable[[Message], None]]

GOODBYE_SECONDS = 5.0
ALIKE_SECONDS = 2.0  # in which all ranks fail, where they fail in the same way
_EXIT = "exit"


class LostRanks(ScaledlError):
    """Others are gone. The guardian tells it, unless it learns why they are."""

    told = True


class Ranks:
    """One process alone, unless `join` made it one of several."""

    def __init__(self, rank: int = 0, world_size: int = 1, host: str = "") -> None:
        self.rank = rank
        self.world_size = world_size
        self.host = host
        self.spec: ClusterSpec | None = None
        self.timeout_seconds = 600.0
        self._store: Any = None
        self._control: Any = None
        self.near: Near | None = None  # where all share a machine
        self._calls = 0
        self._lost: list[int] = []  # ranks that a collective waited for in vain
        self.told_by_main = True  # how this rank ended: as rank 0 says, or by an error of its own
        self.failure = ""  # of this rank alone, which rank 0 tells

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def several(self) -> bool:
        return self.world_size > 1

    # Together

    def max_(self, tensor: Tensor) -> Tensor:
        """In place, the largest value of all ranks. Over gloo, on the CPU, whatever the training uses."""
        return self._reduce(tensor, "MAX")

    def sum_(self, tensor: Tensor) -> Tensor:
        """In place, the sum over all ranks. Over gloo, on the CPU."""
        return self._reduce(tensor, "SUM")

    def _reduce(self, tensor: Tensor, operation: str) -> Tensor:
        if self.several:
            from torch import distributed

            distributed.all_reduce(tensor, getattr(distributed.ReduceOp, operation), group=self._control)
        return tensor

    def max_of(self, values: list[int]) -> list[int]:
        """The largest of all ranks, one by one; for a few numbers at every step."""
        if not self.several:
            return values
        if self.near is not None:
            return self.near.max_(values)
        import torch

        found: list[int] = self.max_(torch.tensor(values)).tolist()
        return found

    def check_others(self) -> None:
        """While others are waited for without a connection: RuntimeError when one failed, or rank 0 says goodbye."""
        try:
            left = has(self._store, ["error"]) or (not self.is_main and has(self._store, [f"call/{self._calls + 1}"]))
        except ScaledlError as error:
            raise RuntimeError(f"connection closed by peer: {error}") from error
        if left:
            raise RuntimeError("connection closed by peer: another rank has left")

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """What every rank gave, in the order of ranks, on every rank."""
        if not self.several:
            return [data]
        import torch
        from torch import distributed

        size = int(self.max_(torch.tensor([len(data)]))[0])
        mine = torch.zeros(size + 8, dtype=torch.uint8)
        mine[:8] = torch.tensor(list(len(data).to_bytes(8, "little")), dtype=torch.uint8)
        mine[8 : 8 + len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        all_of_them = [torch.empty_like(mine) for _ in range(self.world_size)]
        distributed.all_gather(all_of_them, mine, group=self._control)
        found = []
        for one in all_of_them:
            raw = one.numpy().tobytes()
            found.append(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        return found

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """In place, rank 0's values on every rank. Over gloo, on the CPU."""
        if self.several:
            from torch import distributed

            for tensor in tensors:
                distributed.broadcast(tensor, 0, group=self._control)

    def barrier(self) -> None:
        if self.several:
            from torch import distributed

            distributed.barrier(group=self._control)

    # Rank 0 leads

    def call(self, name: str, message: Message) -> None:
        """Let every other rank run its function of this name, with this message."""
        if self.several:
            self._calls += 1
            self._store.set(f"call/{self._calls}", json.dumps({"name": name, **message}))

    def close(self, code: int) -> None:
        """Rank 0: send the others home with this exit code, and see them off."""
        if not self.several or self._store is None:
            return
        with suppress(Exception):
            self.call(_EXIT, {"code": code})
            there = [rank for rank in range(1, self.world_size) if rank not in self._lost]
            # After an error here alone they wait for this rank in a collective, until it is gone.
            patience = ALIKE_SECONDS if code in (1, 2, 3) else GOODBYE_SECONDS
            self._await([f"left/{rank}" for rank in there], patience)
        self._leave()

    def _leave(self) -> None:
        from torch import distributed

        with suppress(Exception):
            distributed.destroy_process_group()
        self._store = self._control = None

    def blame(self, error: BaseException, patience_seconds: float = 3.0) -> ScaledlError | None:
        """Rank 0: what another rank reported as its failure, which may have caused `error` here; or which ranks were
        lost, where it is a connection that broke. None if it is neither."""
        if not self.several or isinstance(error, ScaledlError):
            return None
        with suppress(Exception):
            if self._await(["error"], patience_seconds):
                said = json.loads(self._store.get("error"))
                self._lost = [said["rank"]]
                return ScaledlError(said["error"])
        return self._loss(str(error)) if _is_broken_connection(error) else None

    def _loss(self, error: str) -> LostRanks:
        """Those that can still be heard have told that they, too, wait in vain."""
        others = range(1, self.world_size)
        self._lost = [rank for rank in others if not has(self._store, [f"cut off/{rank}"])] or list(others)
        hosts = dict.fromkeys(self._store.get(f"host/{rank}").decode() for rank in self._lost)
        who = f"{numbers(self._lost)} on {', '.join(hosts)}"
        said = error.strip().splitlines()[0].rpartition("] ")[2]
        if "timed out" in error.lower():
            return LostRanks(
                f"{who} did not answer within {self.timeout_seconds:g} s (trainer.timeout_seconds), "
                f"or the network between does not work: {said}"
            )
        return LostRanks(f"the connection to {who} broke: {said}")

    def _await(self, keys: Sequence[str], seconds: float) -> bool:
        """Whether all keys appear in time. `Store.wait` would print what it thinks of a timeout."""
        deadline, pause = time.monotonic() + seconds, 0.001
        while not has(self._store, keys):
            if time.monotonic() > deadline:
                return False
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        return True

    # The others follow

    def follow(self, handlers: Handlers) -> int:
        """Run what rank 0 calls, until it says goodbye; returns the exit code of this rank."""
        while True:
            message = self._next_call()
            if message is None:
                return 1
            if message["name"] == _EXIT:
                self._store.set(f"left/{self.rank}", "")
                self._leave()
                return int(message["code"])
            try:
                handlers[message["name"]](message)
            except (Preempted, Interrupted):
                continue  # all ranks were stopped at the same step, and rank 0 tells how to end
            except BaseException as error:
                code = self._failed(error)
                if code is not None:
                    return code

    def _next_call(self) -> Message | None:
        self._calls += 1
        key = f"call/{self._calls}"
        try:
            self._await([key], float("inf"))
            return dict(json.loads(self._store.get(key)))
        except Exception:
            return None  # rank 0 is gone, and so is the store that it kept

    def _failed(self, error: BaseException) -> int | None:
        """The exit code to leave with; None to hear how rank 0 ends, which failed in the same way."""
        ours, broken = isinstance(error, ScaledlError), _is_broken_connection(error)
        if ours or broken:
            with suppress(Exception):
                if broken:  # somebody else is gone
                    self._store.set(f"cut off/{self.rank}", "")
                if self._await([f"call/{self._calls + 1}"], ALIKE_SECONDS if ours else GOODBYE_SECONDS):
                    return None
        if broken:
            return 1
        self.told_by_main, self.failure = ours, str(error) if ours else f"{type(error).__name__}: {error}"
        if not ours:
            traceback.print_exception(error)
        said = {"rank": self.rank, "error": f"rank {self.rank} on {self.host} failed: {self.failure}"}
        with suppress(Exception):
            self._store.set("error", json.dumps(said))
        self._leave()  # the others hear of it at once, in whatever they wait for
        return error.exit_code if isinstance(error, ScaledlError) else 1


def _is_broken_connection(error: BaseException) -> bool:
    """A collective that ended because its peer did."""
    words = ("connection closed", "connection reset", "broken pipe", "socket", "timed out", "timeout", "gloo", "nccl")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


_alone = Ranks()
_current = _alone


def current_ranks() -> Ranks:
    """The ranks that this process belongs to; of one process where it trains alone."""
    return _current


@contextmanager
def as_current(ranks: Ranks) -> Iterator[Ranks]:
    """Make `ranks` the ones that everything in the block belongs to."""
    global _current
    before, _current = _current, ranks
    try:
        yield ranks
    finally:
        _current = before


def join(spec: ClusterSpec, store: Any, *, backend: str, device: torch.device | None, timeout_seconds: float) -> Ranks:
    """Make the process groups of a job over its store: `backend` to train with, gloo to agree with."""
    import socket

    from torch import distributed
    from torch._C._distributed_c10d import PrefixStore

    from scaledl.distributed.near import meet_near

    timeout = timedelta(seconds=timeout_seconds)
    distributed.init_process_group(
        backend,
        store=PrefixStore("group", store),
        rank=spec.rank,
        world_size=spec.world_size,
        timeout=timeout,
        device_id=device if backend == "nccl" else None,
    )
    ranks = Ranks(spec.rank, spec.world_size, socket.gethostname())
    ranks.spec = spec
    ranks.timeout_seconds = timeout_seconds
    ranks._store = PrefixStore("ranks", store)
    ranks._store.set(f"host/{spec.rank}", spec.host)
    ranks._control = distributed.new_group(backend="gloo", timeout=timeout)
    ranks.near = meet_near(ranks, ranks.check_others)
    return ranks
