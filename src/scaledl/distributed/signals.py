"""Signals that wake a waiting loop, which then acts on them, instead of handlers that act anywhere."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from types import FrameType
from typing import Any


class CaughtSignals:
    """A context in which signals only put their numbers into a pipe. What the process ignored, it still ignores."""

    def __init__(self, signals: Iterable[int]) -> None:
        self._signals = [signum for signum in signals if signum == signal.SIGCHLD or not _is_ignored(signum)]
        self._before: dict[int, Any] = {}
        self.reader = self._writer = -1

    def __enter__(self) -> CaughtSignals:
        self.reader, self._writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self._writer, False)
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for signum in self._signals:
            self._before[signum] = signal.signal(signum, _nothing)
        return self

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self.reader)
        os.close(self._writer)

    def take(self) -> list[int]:
        """The numbers of the signals that came since."""
        with suppress(BlockingIOError):
            return list(os.read(self.reader, 4096))
        return []


def _is_ignored(signum: int) -> bool:
    return signal.getsignal(signum) is signal.SIG_IGN


def _nothing(signum: int, frame: FrameType | None) -> None:
    pass
