"""The stacks of ranks, printed by their guardian: also of those that are stuck in native code."""

from __future__ import annotations

import select
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from scaledl.console import printable
from scaledl.distributed.link import STACK_SIGNAL
from scaledl.distributed.ward import QUIET_SECONDS, Ward

ANSWER_SECONDS = 2.0


def print_stacks(wards: Sequence[Ward]) -> None:
    """Ask all at once, wait until they have answered, and print one after the other."""
    running = [ward for ward in wards if not ward.ended]
    for ward in running:
        ward.send(signal.SIGCONT)
        if ward.can_show_stack:
            ward.send(STACK_SIGNAL)
    _collect([ward for ward in running if ward.can_show_stack])
    for ward in running:
        print_stack(ward, f"no progress for {ward.silence:.0f} s")


def print_stack(ward: Ward, why: str) -> None:
    """What came of its stack, under a header."""
    text = ward.stack.decode(errors="replace").rstrip() or f"  {_no_answer(ward)}"
    ward.stack = b""
    to_stderr(f"stack of rank {ward.status.rank} on {ward.status.host} ({why}):\n{printable(text)}\n")


def to_stderr(text: str) -> None:
    """Never an error, and no endless wait for a reader that does not read."""
    with suppress(OSError, ValueError, AttributeError):
        if select.select([], [sys.stderr.fileno()], [], 1.0)[1]:
            sys.stderr.write(text)
            sys.stderr.flush()


def _collect(wards: Sequence[Ward]) -> None:
    deadline = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline:
        readers = [ward.reader for ward in wards if ward.reader is not None]
        came = bool(readers) and bool(select.select(readers, [], [], QUIET_SECONDS)[0])
        for ward in wards:
            ward.read()
        if not came and all(ward.stack or ward.reader is None for ward in wards):
            return


def _no_answer(ward: Ward) -> str:
    if not ward.can_show_stack:
        return "none: the rank had not come so far as to be able to show it"
    try:
        state = Path(f"/proc/{ward.status.pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "none: the process is gone"
    meaning = "waits in the kernel, for storage or a device" if state == "D" else "does not answer to signals"
    return f"none within {ANSWER_SECONDS:.0f} s: the process {meaning} (state {state})"
