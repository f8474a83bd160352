"""What a rank tells its guardian: where its status belongs, what it does, that it still makes progress, how it ended.

The messages are lines of JSON in a pipe, marked by a first byte. What is not marked is text of `faulthandler`, which
writes the stacks of a rank into the same pipe when the guardian asks for them by a signal.
"""

from __future__ import annotations

import faulthandler
import fcntl
import json
import os
import select
import signal
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from scaledl.distributed.status import one_line

LINK_VARIABLE = "SCALEDL_LINK_FD"
MARK = b"\x1e"
STACK_SIGNAL = getattr(signal, "SIGRTMAX", signal.SIGUSR2)  # unused by schedulers, Python, torch, CUDA and NCCL
TICK_SECONDS = 0.5
WATCHED = ("train", "validate")
_WAIT_SECONDS = 1.0
_PIPE_BYTES = 256 * 1024  # stacks of many threads
_NEVER = float("inf")
_monotonic = time.monotonic


class RankLink:
    """The rank's end. Without a guardian it does nothing. No method raises, and only `tick` is called often."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor
        self._due = _NEVER if descriptor is None else 0.0
        self._step: int | None = None
        if descriptor is not None:
            self._offer_stacks(descriptor)

    @property
    def guarded(self) -> bool:
        """Whether a guardian listens."""
        return self._descriptor is not None

    def announce(
        self, status_dir: str | Path, attempt: int, hang_seconds: float | None, *, step: int | None = None
    ) -> None:
        """The run is known: its folder of status files, its attempt, when a rank counts as hung (None: never).

        `step`: how many steps it has already; without it the first tick tells where this attempt began.
        """
        folder = os.fspath(Path(status_dir).absolute())
        self._step = step
        self._tell(folder=folder, attempt=attempt, hang_seconds=hang_seconds)

    def phase(self, name: str) -> None:
        """What the rank does now: `setup`, `train`, `validate`, `idle` … Only training and validation are watched."""
        self._tell(phase=name)

    def tick(self, step: int) -> None:
        """Progress, after every training step and every batch of a validation. Cheap: writes twice a second at most."""
        self._step = step
        if _monotonic() >= self._due:
            self._due = _monotonic() + TICK_SECONDS
            self._write(_encode({"step": step}), wait=False)

    def final(self, status: str, message: str = "", *, told: bool = True) -> None:
        """The rank's last word, said before it leaves: one of `status.STATUSES`, and why.

        `told`: it has told the user itself. `stopped` is for a rank that leaves because another one did.
        """
        self._tell(final=status, message=one_line(message), told=told)

    def close(self) -> None:
        """For a process that is not the rank any more (a forked worker)."""
        descriptor, self._descriptor, self._due = self._descriptor, None, _NEVER
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)

    def _offer_stacks(self, descriptor: int) -> None:
        with suppress(OSError, ValueError, RuntimeError):
            faulthandler.register(STACK_SIGNAL, file=descriptor, all_threads=True, chain=False)
            self._tell(stacks=True)

    def _tell(self, **message: Any) -> None:
        if self._descriptor is None:
            return
        if self._step is not None:
            message["step"] = self._step
        self._due = 0.0
        with suppress(TypeError, ValueError):  # a message that is no JSON
            self._write(_encode(message), wait=True)

    def _write(self, data: bytes, *, wait: bool) -> None:
        """A pipe that is full (its guardian is stopped) costs a tick, and anything else a second."""
        deadline = _monotonic() + _WAIT_SECONDS
        while data and self._descriptor is not None:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                if not wait or _monotonic() > deadline:
                    return None
                with suppress(OSError, ValueError):
                    select.select([], [self._descriptor], [], _WAIT_SECONDS)
            except OSError:
                return self.close()
        return None


def _encode(message: dict[str, Any]) -> bytes:
    return MARK + json.dumps(message).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any] | None:
    """The message in a line; None for text of `faulthandler`, and for what a full pipe cut off."""
    _, mark, text = line.rpartition(MARK)
    with suppress(ValueError):
        message = json.loads(text) if mark else None
        return message if isinstance(message, dict) else None
    return None


def open_pipe() -> tuple[int, int]:
    """(reader, writer) of a link: neither waits."""
    reader, writer = os.pipe()
    for descriptor in (reader, writer):
        os.set_blocking(descriptor, False)
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with suppress(OSError):
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return reader, writer


_link: RankLink | None = None


def current_link() -> RankLink:
    """This process's link: of the guardian that forked or started it, else one that does nothing."""
    global _link
    if _link is None:
        _link = _from_environment()
    return _link


def take_link(descriptor: int) -> RankLink:
    """Make the writing end of a pipe this process's link."""
    global _link
    _link = RankLink(descriptor)
    return _link


def _from_environment() -> RankLink:
    """The variable goes, and the descriptor is not inherited: commands that this rank starts are no ranks."""
    text = os.environ.pop(LINK_VARIABLE, "")
    try:
        descriptor = int(text)
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return RankLink()
        os.set_inheritable(descriptor, False)
        os.set_blocking(descriptor, False)
    except (ValueError, OSError, OverflowError):
        return RankLink()
    return RankLink(descriptor)


def _forget() -> None:
    if _link is not None:
        _link.close()


os.register_at_fork(after_in_child=_forget)
