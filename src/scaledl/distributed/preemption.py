"""Stopping on a signal: handlers only set a flag, which the training loop reads at step boundaries.

Imports nothing heavy, so that it can be installed before torch is imported.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

from scaledl.errors import Interrupted, Preempted, ScaledlError

STOP_SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


class StopFlag:
    """Remembers the first stop signal. A second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._installed = False
        self._interrupted = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
        self.signum = self.signum or signum

    def clear(self) -> None:
        """Forget what came, for a process that goes on after it was stopped (a notebook, a test)."""
        self.signum, self._interrupted = None, False

    def install(self) -> None:
        """Take over the stop signals; only the main thread may."""
        if threading.current_thread() is threading.main_thread():
            self._installed = True
            for signum in STOP_SIGNALS:
                signal.signal(signum, self.handle)

    def take_back(self) -> None:
        """Take the signals over again after a library took them; nothing where we never had them (a notebook)."""
        if self._installed:
            self.install()

    def outcome(self, saved: str) -> ScaledlError:
        """The exception that ends a run stopped by this flag; `saved` tells what was kept."""
        name = signal.Signals(self.signum or signal.SIGTERM).name
        kind = Interrupted if self.signum == signal.SIGINT else Preempted
        return kind(f"stopped by {name}; {saved}")

    def raise_if_set(self, saved: str) -> None:
        if self.signum is not None:
            raise self.outcome(saved)


stop_flag = StopFlag()
