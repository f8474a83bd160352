"""The stacks of ranks, printed by their guardian: also of those that are stuck in native code."""

from __future__ import annotations

import select
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from scaledl.console import printable
from scaledl.distributed.link import STACK_SIGNAL
from scaledl.distributed.stderr import to_stderr
from scaledl.distributed.ward import QUIET_SECONDS, Ward

ANSWER_SECONDS = 2.0


def print_stacks(wards: Sequence[Ward]) -> None:
    """Ask all at once, wait until they have answered, and print one after the other."""
    running = [(ward, ward.silence) for ward in wards if not ward.ended]
    asked = [ward for ward, _ in running if ward.can_show_stack]
    for ward in asked:
        ward.send(STACK_SIGNAL)
    _collect(asked, ANSWER_SECONDS)
    silent = [ward for ward in asked if not ward.stack]
    for ward in silent:  # perhaps stopped
        ward.send(signal.SIGCONT)
    _collect(silent, ANSWER_SECONDS / 2)
    for ward, silence in running:
        print_stack(ward, f"no progress for {silence:.0f} s")


def print_stack(ward: Ward, why: str) -> None:
    """What came of its stack, under a header."""
    text = ward.stack.decode(errors="replace").rstrip() or f"  {_no_answer(ward)}"
    ward.stack = b""
    to_stderr(f"stack of rank {ward.status.rank} on {ward.status.host} ({why}):\n{printable(text)}\n")


def _collect(wards: Sequence[Ward], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while wards and time.monotonic() < deadline:
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
