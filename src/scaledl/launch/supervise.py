"""Run a launcher of ranks, torchrun or deepspeed: `python -m scaledl.launch.supervise [--connection] -- COMMAND ...`

A stop signal goes to the ranks, once to each, and not to the launcher, which would count down to a kill. When the
launcher has ended, however it did, nothing of it is left. With `--connection` standard input is the line to another
host: names of signals come over it, and when it ends, so does everything here.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from scaledl.distributed.processes import adopt_orphans, end_all, leaving_with, rank_leaders, reap, send
from scaledl.distributed.signals import CaughtSignals

GRACE_VARIABLE = "SCALEDL_GRACE_SECONDS"
GRACE_SECONDS = 60.0  # for a checkpoint, before ranks that were told to stop are killed
SILENCE_SECONDS = 60.0  # of the other host, which says something every few seconds
_LAST_SECONDS = 5.0
_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_CAUGHT = (*_STOPPING, signal.SIGCHLD)


class Supervisor:
    """`connected`: standard input is the line to the host that started this."""

    def __init__(self, command: Sequence[str], *, connected: bool) -> None:
        self._command = command
        self._connected = connected
        self._heard = time.monotonic()
        self._line = b""
        self._grace = float(os.environ.get(GRACE_VARIABLE) or GRACE_SECONDS)
        self._asked = 0  # the last stop signal
        self._deadline = float("inf")

    def run(self) -> int:
        """Until the launcher has ended; returns its exit code."""
        adopt_orphans()
        with CaughtSignals(_CAUGHT) as signals:
            leader = self._start()
            try:
                return self._watch(leader, signals)
            finally:
                end_all(_LAST_SECONDS)

    def _start(self) -> int:
        """In a session of its own: a terminal's Ctrl-C comes to this process only, which passes it on."""
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=leaving_with(os.getpid()),
            )
        except OSError as error:
            sys.stderr.write(f"error: {self._command[0]} cannot be started: {error.strerror}\n")
            raise SystemExit(2) from None
        process.returncode = 0  # reaped below, not by subprocess
        return process.pid

    def _watch(self, leader: int, signals: CaughtSignals) -> int:
        while True:
            ended = reap()
            if leader in ended:
                return self._exit_code(ended[leader])
            if time.monotonic() > self._deadline:
                return self._exit_code(-signal.SIGKILL)
            readable = select.select([signals.reader, *([0] if self._connected else [])], [], [], 1.0)[0]
            for signum in signals.take():
                self._pass_on(signum, leader)
            if self._connected:
                self._hear(leader, ready=0 in readable)

    def _exit_code(self, code: int) -> int:
        """A launcher that a stop signal reached before it had ranks: nothing began, so the same command goes on."""
        code = 128 - code if code < 0 else code
        if self._asked and code - 128 in _STOPPING:
            return 130 if self._asked == signal.SIGINT else 75
        return code

    def _pass_on(self, signum: int, leader: int) -> None:
        if signum == signal.SIGCHLD:
            return
        self._asked = signum
        self._deadline = min(self._deadline, time.monotonic() + self._grace)
        signum = signal.SIGTERM if signum == signal.SIGHUP else signum
        send(rank_leaders() or [leader], signum)

    def _hear(self, leader: int, *, ready: bool) -> None:
        if ready:
            data = os.read(0, 4096)
            self._heard = time.monotonic()
            self._connected = bool(data)
            *lines, self._line = (self._line + data).split(b"\n")
            for line in lines:
                with suppress(KeyError):
                    self._pass_on(signal.Signals[line.decode(errors="replace")], leader)
        if not self._connected or time.monotonic() - self._heard > SILENCE_SECONDS:
            self._connected = False
            self._pass_on(signal.SIGHUP, leader)


def main(argv: Sequence[str]) -> int:
    connected = argv[:1] == ["--connection"]
    if argv[connected : connected + 1] != ["--"] or not argv[connected + 1 :]:
        sys.stderr.write("usage: python -m scaledl.launch.supervise [--connection] -- COMMAND ...\n")
        return 2
    return Supervisor(argv[connected + 1 :], connected=connected).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
