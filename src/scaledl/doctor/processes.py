"""Questions to another process, with a time limit: an import or a tool that hangs must not hold the doctor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress


class Asked:
    """A command that runs beside the other checks, until its answer is wanted."""

    def __init__(self, command: Sequence[str], seconds: float, variables: Mapping[str, str] | None = None) -> None:
        self._deadline = time.monotonic() + seconds
        self._seconds = seconds
        self._process: subprocess.Popen[str] | None = None
        self._problem = ""
        try:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **(variables or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            self._problem = error.strerror or str(error)

    @classmethod
    def python(cls, code: str, seconds: float, variables: Mapping[str, str] | None = None) -> Asked:
        return cls([sys.executable, "-c", code], seconds, variables)

    def answer(self) -> tuple[bool, str]:
        """Whether it went well, and its output; else why not, in one line."""
        if self._process is None:
            return False, self._problem
        try:
            out, error = self._process.communicate(timeout=max(0.1, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._kill()
            return False, f"no answer within {self._seconds:g} s"
        if self._process.returncode == 0:
            return True, out
        lines = (error.strip() or out.strip() or f"exit code {self._process.returncode}").splitlines()
        return False, lines[-1][:300]

    def _kill(self) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


def ask(command: Sequence[str], seconds: float) -> tuple[bool, str]:
    return Asked(command, seconds).answer()
