"""The right of one process to write a run, from `take` to `release`."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from scaledl.errors import ScaledlError, UsageError
from scaledl.run.attempt import FILE_NAME, HEARTBEAT_SECONDS, Attempt, beat, liveness, read_attempt, write_attempt


class Lease:
    """`take` and `release` expect the run's lock to be held; `check` and `heartbeat` are for every step."""

    def __init__(self, directory: Path, label: str) -> None:
        self._directory = directory
        self._label = label
        self._attempt: Attempt | None = None  # ours, or the one that this process joined
        self._stamp: tuple[int, int] | None = None
        self._since = 0.0
        self._last_beat = float("-inf")
        self.owned = False

    @property
    def seconds(self) -> float:
        """Since `take`."""
        return time.monotonic() - self._since

    def take(self, attempts: int) -> Attempt:
        """Become the writer, as a newer attempt than any before. Raises UsageError naming a live holder."""
        held = read_attempt(self._directory)
        mine = Attempt.new(max(attempts, held.attempt if held else 0) + 1)
        if held and not held.released and not held.yields_to(mine):
            self._refuse_if_alive(held)
        write_attempt(self._directory, mine)
        self._attempt, self._stamp, self.owned = mine, None, True
        self._since, self._last_beat = time.monotonic(), float("-inf")
        self.heartbeat()
        return mine

    def check(self) -> None:
        """Raise ScaledlError when a newer attempt has taken over. Without one of ours, join that on the disk."""
        stamp = self._current_stamp()
        if stamp is not None and stamp == self._stamp:
            return
        found = read_attempt(self._directory)
        if self._attempt is None:
            self._attempt = found
        elif found is None:
            raise ScaledlError(f"run {self._label} has lost {self._directory / FILE_NAME}: this attempt stops")
        elif found.token != self._attempt.token:
            raise ScaledlError(
                f"attempt {self._attempt.attempt} of run {self._label} stops: "
                f"attempt {found.attempt} has taken over, {found.who()}"
            )
        self._stamp = stamp

    def heartbeat(self) -> None:
        moment = time.monotonic()
        if moment - self._last_beat >= HEARTBEAT_SECONDS:
            self._last_beat = moment
            beat(self._directory)

    def release(self) -> None:
        """Let the next attempt begin although this process lives on."""
        if self.owned and self._attempt is not None:
            self._attempt = replace(self._attempt, released=True)
            write_attempt(self._directory, self._attempt)

    def _refuse_if_alive(self, held: Attempt) -> None:
        if liveness(held.process, self._directory) == "running":
            raise UsageError(
                f"run {self._label} is in use by {held.who()}; wait until it ends, stop it there "
                f"(kill {held.pid}), or start another run with its own run.id"
            )

    def _current_stamp(self) -> tuple[int, int] | None:
        try:
            status = (self._directory / FILE_NAME).stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns
