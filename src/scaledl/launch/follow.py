"""Follow a job's log until the job has ended, through waiting, requeues and restarts."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from scaledl.console import get_console, printable
from scaledl.launch.slurm import Job, final_state, show_jobs

POLL_SECONDS = 2.0
LOG_SECONDS = 0.5
PATIENCE_SECONDS = 600.0  # with a controller that does not answer
_ENDED = (
    *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("BOOT_FAIL", "DEADLINE", "PREEMPTED", "REVOKED"),
)
_OWN_CODES = (1, 2, 3, 75, 130)  # of scaledl


@dataclass
class _Log:
    """What of a file has been shown; it may not be there yet, and grows."""

    path: Path
    prefix: str = ""
    offset: int = 0
    _rest: bytes = b""

    def show(self) -> None:
        """The whole lines that are new."""
        try:
            if self.path.stat().st_size < self.offset:  # written anew
                self.offset = 0
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read()
        except OSError:
            return
        self.offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            sys.stdout.write(self.prefix + printable(line.decode(errors="replace").rpartition("\r")[2]) + "\n")
        sys.stdout.flush()

    def finish(self) -> None:
        self.show()
        if self._rest:
            sys.stdout.write(self.prefix + printable(self._rest.decode(errors="replace")) + "\n")


@dataclass
class Follower:
    """Of one job, or of all elements of an array."""

    id: str
    _logs: dict[str, _Log] = field(default_factory=dict)
    _seen: dict[str, Job] = field(default_factory=dict)

    def until_ended(self) -> int:
        """The exit code: 0 when all is well, else that of the first element that was not."""
        silent_since, ended_before = time.monotonic(), False
        while True:
            jobs = show_jobs(self.id)
            if jobs is not None:
                silent_since = time.monotonic()
                self._news(jobs)
                ended = all(job.state in _ENDED for job in jobs)
                if ended and (ended_before or not jobs):  # a job that requeues itself looks ended for a moment
                    return self._end(jobs)
                ended_before = ended
            elif time.monotonic() - silent_since > PATIENCE_SECONDS:
                get_console().warn(f"Slurm does not answer: what became of job {self.id} is not known")
                return 1
            self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + POLL_SECONDS
        while time.monotonic() < deadline:
            for log in self._logs.values():
                log.show()
            time.sleep(LOG_SECONDS)

    def _news(self, jobs: list[Job]) -> None:
        several = len(jobs) > 1 or "_" in jobs[0].id if jobs else False
        for job in jobs:
            before, self._seen[job.id] = self._seen.get(job.id), job
            if before is None or (before.state, before.restarts) != (job.state, job.restarts):
                get_console().info(f"[{_described(job)}]")
            if job.log is not None and job.id not in self._logs and _has_log(job):
                self._logs[job.id] = _Log(job.log, f"{job.id}: " if several else "")

    def _end(self, jobs: list[Job]) -> int:
        for log in self._logs.values():
            log.finish()
        if jobs:
            return next((code for job in jobs if (code := exit_code(job.state, job.exit_code))), 0)
        known = final_state(self.id)
        if known is None:
            get_console().warn(f"Slurm has forgotten job {self.id}; its log says how it ended")
            return 1
        return exit_code(*known)


def _has_log(job: Job) -> bool:
    """An array that waits has one record for all its elements, whose log has no index yet."""
    return "%" not in str(job.log) and "[" not in job.id and job.state != "PENDING"


def _described(job: Job) -> str:
    reason = f" ({job.reason})" if job.state == "PENDING" and job.reason not in ("", "None") else ""
    again = f", restarted {job.restarts} time{'s' if job.restarts > 1 else ''}" if job.restarts else ""
    return f"job {job.id}: {job.state}{reason}{again}"


def exit_code(state: str, code: int) -> int:
    """What a job's end means for who waited for it.

    >>> exit_code("COMPLETED", 0), exit_code("FAILED", 2), exit_code("FAILED", 139), exit_code("CANCELLED", 0)
    (0, 2, 1, 130)
    """
    if state == "COMPLETED":
        return 0
    if state == "FAILED" and code in _OWN_CODES:
        return code
    return {"CANCELLED": 130, "PREEMPTED": 75}.get(state, 1)
