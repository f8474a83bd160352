"""One rank as its guardian sees it: what came through its link, and how it ended."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from scaledl.distributed.link import WATCHED, decode
from scaledl.distributed.outcome import Ending, outcome
from scaledl.distributed.status import CODES, RankStatus, one_line
from scaledl.run.manifest import now

QUIET_SECONDS = 0.3  # between the lines of a stack there is less
Poll = Callable[[], int | None]  # the exit code, or minus the signal; None while it runs


class Ward:
    """`poll` reaps the process. `suspect_at`: when it counts as the cause, if no other one was found by then."""

    def __init__(self, status: RankStatus, reader: int, poll: Poll) -> None:
        self.status = status
        self.reader: int | None = reader
        self.folders: list[Path] = []  # as announced, the newest last
        self.attempts: dict[Path, int] = {}  # at the run of such a folder
        self.phase = "setup"
        self.final: str | None = None
        self.said = ""
        self.told = True
        self.ended = self.settled = self.ended_by_us = False
        self.can_show_stack = False
        self.stack = b""
        self.suspect_at: float | None = None
        self._poll = poll
        self._code = 0
        self._stack_at = 0.0
        self._buffer = b""
        self._hang_seconds: float | None = None
        self._progress = time.monotonic()
        self._begins = False

    @property
    def silence(self) -> float:
        """Seconds since the last progress."""
        return time.monotonic() - self._progress

    @property
    def hangs(self) -> bool:
        watched = self._hang_seconds is not None and self.phase in WATCHED and not self.ended
        return watched and self.silence > (self._hang_seconds or 0.0)

    @property
    def shows_stack_unasked(self) -> bool:
        """Somebody else sent the signal for it, and all of it is here."""
        return bool(self.stack) and time.monotonic() - self._stack_at > QUIET_SECONDS

    def excuse(self) -> None:
        """The guardian was not there to see progress."""
        self._progress = time.monotonic()

    def send(self, signum: int) -> None:
        """Only to a process that was not reaped: its number is still its own."""
        if not self.ended:
            with suppress(OSError):
                os.kill(self.status.pid, signum)

    def end(self) -> None:
        """Without appeal."""
        self.ended_by_us = self.ended_by_us or not self.ended
        self.send(signal.SIGKILL)

    # What it says

    def read(self) -> None:
        """All that is in the pipe."""
        while self.reader is not None:
            try:
                data = os.read(self.reader, 1 << 16)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.close()
            self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            message = decode(line)
            if message is None:
                self.stack += line + b"\n"
                self._stack_at = time.monotonic()
            else:
                with suppress(TypeError, ValueError, KeyError):
                    self._hear(message)

    def close(self) -> None:
        if self.reader is not None:
            os.close(self.reader)
            self.reader = None

    def _hear(self, message: dict[str, Any]) -> None:
        self._progress = time.monotonic()
        self.status = replace(self.status, time=now())
        if "stacks" in message:
            self.can_show_stack = True
        if "folder" in message:
            self._announced(message)
        if "step" in message:
            self._stepped(int(message["step"]))
        if "phase" in message:
            self.phase = str(message["phase"])
        if "final" in message:
            self.final, self.said = str(message["final"]), one_line(message["message"])
            self.told = bool(message.get("told", True))

    def _announced(self, message: dict[str, Any]) -> None:
        folder, seconds = Path(message["folder"]), message["hang_seconds"]
        self.folders = [*(known for known in self.folders if known != folder), folder]
        self.attempts[folder] = int(message["attempt"])
        self._hang_seconds = None if seconds is None else float(seconds)
        self._begins = True
        at, stage = int(message["attempt"]), _stage(folder)
        self.status = replace(self.status, status="running", attempt=at, stage=stage, step=0, start_step=0)

    def _stepped(self, step: int) -> None:
        self.status = replace(self.status, step=step, start_step=step if self._begins else self.status.start_step)
        self._begins = False

    # How it ended

    def reap(self) -> bool:
        """Whether it has just ended."""
        if self.ended:
            return False
        code = self._poll()
        if code is None:
            return False
        self.ended = True
        self._code = code
        self.read()
        self.close()
        return True

    def settle(self, cause: RankStatus | None, *, interrupted: bool) -> None:
        """Say in its status how it ended, with the arguments of `outcome`."""
        self.settled = True
        self.status = replace(self.outcome(cause, interrupted=interrupted), time=now())

    def outcome(self, cause: RankStatus | None = None, *, interrupted: bool = False) -> RankStatus:
        """The last status of a rank that has ended; without a cause as long as nothing is known to end all ranks."""
        ending = Ending(self._code, self.final, self.said)
        if self.ended_by_us and cause is None:
            return replace(self.status, status="interrupted", exit=CODES["interrupted"], message="ended by Ctrl-C")
        return outcome(self.status, ending, cause, interrupted)

    @property
    def code(self) -> int:
        """The exit code for the guardian to leave with."""
        not_its_own = self.status.status == "hung" or (self.ended_by_us and self.status.status != "interrupted")
        return 1 if not_its_own else self.status.exit or 0


def _stage(folder: Path) -> int:
    """
    >>> _stage(Path("runs/x/1/stages/02-prune/ranks")), _stage(Path("runs/x/1/ranks"))
    (2, 0)
    """
    found = re.search(r"/stages/(\d+)-[^/]+/ranks$", folder.as_posix())
    return int(found[1]) if found else 0
