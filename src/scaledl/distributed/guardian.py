"""A process beside the ranks that stays when they fall: it says how they ended, and lets none wait for the dead.

It only sleeps, reads pipes and small files, and imports no torch: what kills or blocks a rank does not touch it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from scaledl.distributed.cause import describe, publish_cause, read_cause
from scaledl.distributed.journal import Journal
from scaledl.distributed.link import RankLink, current_link, open_pipe, take_link
from scaledl.distributed.parent import dying_with
from scaledl.distributed.signals import CaughtSignals
from scaledl.distributed.stacks import print_stack, print_stacks
from scaledl.distributed.status import FATAL, LEAVING, RankStatus
from scaledl.distributed.stderr import error
from scaledl.distributed.ward import Ward
from scaledl.errors import ScaledlError

if TYPE_CHECKING:
    from scaledl.distributed.environment import ClusterSpec

FORWARDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
CAUGHT = (*FORWARDED, signal.SIGINT, signal.SIGCHLD)
POLL_SECONDS = 0.25
PEER_SECONDS = 1.0  # between two looks for what other guardians saw
HOLD_SECONDS = 1.0  # a rank that fails may do so because another one died: that is heard of within this time
LEAVE_SECONDS = 5.0  # for ranks to leave by themselves after another one ended
INTERRUPT_SECONDS = 0.5
GAP_SECONDS = 3.0  # a loop that slept so long was stopped itself
KILLING_INTERRUPTS = 3


class Guardian:
    """Of some of the `world_size` ranks of a job. `folder`: for status files, besides those that the ranks name."""

    def __init__(self, wards: Sequence[Ward], world_size: int, folder: Path | None = None) -> None:
        self._wards = wards
        self._several = world_size > 1
        self._elsewhere = world_size > len(wards)
        self._journal = Journal(wards, folder, world_size)
        self._cause: RankStatus | None = None
        self._told = False
        self._kill_at = self._ask_at = self._interrupt_at = float("inf")
        self._peers_due = 0.0
        self._interrupts: list[float] = []
        self._asked: set[int] = set()  # ranks that were sent a stop signal
        self._last_loop = time.monotonic()

    def run(self, signals: CaughtSignals) -> int:
        """Until all its ranks have ended; returns the exit code that stands for them."""
        try:
            while not all(ward.settled for ward in self._wards):
                self._journal.write()
                self._wait(signals)
                for signum in signals.take():
                    self._on_signal(signum)
                for ward in self._wards:
                    ward.read()
                self._reap()
                self._decide()
                self._settle()
                self._act()
            self._journal.write()
        except BaseException:
            for ward in self._wards:
                ward.end()
            raise
        return self.exit_code

    def _wait(self, signals: CaughtSignals) -> None:
        readers = [ward.reader for ward in self._wards if ward.reader is not None]
        select.select([signals.reader, *readers], [], [], POLL_SECONDS)
        moment = time.monotonic()
        if moment - self._last_loop > GAP_SECONDS:
            for ward in self._wards:
                ward.excuse()
        self._last_loop = moment

    # Signals

    def _on_signal(self, signum: int) -> None:
        if signum in FORWARDED:
            self._forward(signum)
        elif signum == signal.SIGINT:
            self._interrupted()

    def _forward(self, signum: int) -> None:
        for ward in self._wards:
            ward.send(signum)
            self._asked.add(ward.status.rank)

    def _interrupted(self) -> None:
        """The ranks have it as well if it came from a terminal, and two would be one too many: they get a SIGTERM,
        which says nothing new to a rank that already stops."""
        moment = time.monotonic()
        if self._interrupts and moment - self._interrupts[-1] < INTERRUPT_SECONDS:
            return
        self._interrupts.append(moment)
        self._interrupt_at = min(self._interrupt_at, moment + INTERRUPT_SECONDS)
        if len(self._interrupts) >= KILLING_INTERRUPTS:
            for ward in self._wards:
                ward.end()

    # Ends

    @property
    def _fatal(self) -> RankStatus | None:
        """What ends all ranks, once it is known."""
        return self._cause if self._cause is not None and self._cause.status in FATAL else None

    def _reap(self) -> None:
        for ward in self._wards:
            if ward.reap() or (self._several and ward.final in FATAL and ward.suspect_at is None):
                self._suspect(ward)

    def _suspect(self, ward: Ward) -> None:
        kind = ward.outcome().status if ward.ended else ward.final
        if kind in FATAL:
            hold = HOLD_SECONDS if self._several and kind != "killed" else 0.0
            ward.suspect_at = min(_suspected_at(ward), time.monotonic() + hold)

    def _decide(self) -> None:
        """Find out what ends all ranks: what another guardian saw, or a rank of our own."""
        moment = time.monotonic()
        suspect = min(self._wards, key=_suspected_at)
        if self._fatal is None and self._elsewhere and (suspect.suspect_at is not None or moment >= self._peers_due):
            self._peers_due = moment + PEER_SECONDS
            self._hear_of_peers()
        if self._fatal is not None:
            return None
        if _suspected_at(suspect) <= moment:
            return self._blame(suspect)
        hanging = [ward for ward in self._wards if ward.hangs]
        return self._blame_hang(max(hanging, key=lambda ward: ward.silence)) if hanging else None

    def _hear_of_peers(self) -> None:
        for folder in self._journal.folders:
            found = read_cause(folder, self._wards[0].status.launch, self._journal.attempt(folder))
            if found is not None and (self._cause is None or found.status in FATAL):
                self._adopt(found)

    def _blame(self, ward: Ward) -> None:
        ended = ward.outcome() if ward.ended else replace(ward.status, status=ward.final or "failed", message=ward.said)
        said = ward.final is not None and ward.told
        told_itself = ended.status != "killed" and (said or not self._several)
        self._publish(ended, tell=not told_itself)

    def _blame_hang(self, ward: Ward) -> None:
        step = f"after step {ward.status.step}" if ward.status.step else "before the first step"
        message = f"no progress for {ward.silence:.0f} s {step}, in phase {ward.phase}"
        ward.status = replace(ward.status, status="hung", message=message)
        self._publish(ward.status, tell=True)

    def _publish(self, status: RankStatus, *, tell: bool) -> None:
        """Make it known as the cause; the user is told where it is the first."""
        standing = status
        if self._elsewhere:
            for folder in self._journal.folders:
                with suppress(ScaledlError, OSError):  # the folder may have been removed
                    standing = publish_cause(folder, standing, self._journal.attempt(folder))
        if tell and standing is status:
            self._tell(status)
        self._adopt(standing)

    def _tell(self, cause: RankStatus) -> None:
        self._told = True
        stop = "; all ranks stop" if self._several else ""
        kept = "" if cause.status == "refused" else ". What was saved is kept: start it again to go on from there"
        error(f"{describe(cause)}{stop}{kept}")

    def _adopt(self, cause: RankStatus) -> None:
        """Others are given a while: to leave by themselves, or before they are asked to."""
        self._cause = cause
        if cause.status in LEAVING:
            self._ask_at = time.monotonic() + LEAVE_SECONDS
            return
        for ward in self._wards:
            if not ward.ended and ward.status.rank != cause.rank:
                ward.status = replace(ward.status, status="stopped", message=f"stopped because {describe(cause)}")
        self._journal.write()
        if cause.status == "hung":
            print_stacks(self._wards)
        self._kill_at = time.monotonic() + LEAVE_SECONDS

    def _settle(self) -> None:
        """Say how ranks ended, as soon as it is clear why."""
        for ward in self._wards:
            if ward.ended and not ward.settled and (ward.suspect_at is None or self._fatal is not None):
                ward.settle(self._fatal, interrupted=bool(self._interrupts))
                if ward.status.status in LEAVING and self._several and self._cause is None:
                    self._publish(ward.status, tell=False)

    def _act(self) -> None:
        """What has been put off."""
        moment = time.monotonic()
        if moment >= min(self._interrupt_at, self._ask_at):
            self._interrupt_at = self._ask_at = float("inf")
            for ward in self._wards:
                if ward.final is None and ward.status.rank not in self._asked:
                    ward.send(signal.SIGTERM)
        if self._fatal is not None and moment >= self._kill_at:
            self._end_all(self._fatal)
        for ward in self._wards:
            if ward.shows_stack_unasked and self._cause is None:
                print_stack(ward, "asked for by a signal")

    def _end_all(self, cause: RankStatus) -> None:
        """A rank that failed has told why; that others are ended for it is news if they are here."""
        running = [ward.status.rank for ward in self._wards if not ward.ended and ward.status.rank != cause.rank]
        if running and not self._told and cause.rank in [ward.status.rank for ward in self._wards]:
            self._tell(cause)
        for ward in self._wards:
            ward.end()

    @property
    def exit_code(self) -> int:
        """0 if all ranks ended well, else the code of the cause; those that had to stop do not decide."""
        codes = [ward.code for ward in self._wards]
        if self._fatal is not None:
            codes = [ward.code or 1 for ward in self._wards if ward.status.rank == self._fatal.rank] or codes
        return next((code for code in (75, 130, *codes) if code in codes and code != 0), 0)


def _suspected_at(ward: Ward) -> float:
    return float("inf") if ward.suspect_at is None else ward.suspect_at


def status_folder() -> Path | None:
    """The folder that a batch script wants the status files in."""
    folder = os.environ.get("SCALEDL_STATUS_DIR")
    return Path(folder).absolute() if folder else None


def guard(spec: ClusterSpec) -> RankLink:
    """Fork: the child goes on as the rank and gets its link, the parent guards it and never returns.

    To be called before threads start and torch is imported. A rank that has a guardian keeps it.
    """
    if current_link().guarded:
        return current_link()
    _flush()
    reader, writer = open_pipe()
    tie = dying_with(os.getpid())
    before = signal.pthread_sigmask(signal.SIG_BLOCK, CAUGHT)  # none is to come between the two
    pid = os.fork()
    if pid != 0:
        os.close(writer)
        _guard_and_leave(spec, pid, reader, before)
    tie()
    os.close(reader)
    link = take_link(writer)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return link


def _guard_and_leave(spec: ClusterSpec, pid: int, reader: int, mask: set[int]) -> NoReturn:
    """The parent's part: nothing of what it was doing before may go on in it."""
    code = 1
    try:
        with CaughtSignals(CAUGHT) as signals:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            status = RankStatus(spec.launch_id, "starting", rank=spec.rank, host=node_name(spec), pid=pid)
            ward = Ward(status, reader, lambda: _reaped(pid))
            code = Guardian([ward], spec.world_size, status_folder()).run(signals)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _reaped(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def node_name(spec: ClusterSpec) -> str:
    """As the scheduler calls this machine, else as it calls itself."""
    return spec.nodes[spec.node_rank] if spec.node_rank < len(spec.nodes) else socket.gethostname()


def _flush() -> None:
    """What is buffered would be written twice."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
