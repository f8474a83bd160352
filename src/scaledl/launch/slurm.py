"""Slurm's commands, called with argument lists, and their answers as values."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scaledl.errors import ScaledlError, UsageError

ANSWER_SECONDS = 30.0
_FIELD = re.compile(r"(?:^|\s)([A-Za-z][A-Za-z:/]*)=")


def require_sbatch() -> None:
    if shutil.which("sbatch") is None:
        raise UsageError(
            "sbatch was not found: run this where jobs are submitted (a login node), or use --dry-run to see the script"
        )


def submit(script: str, *options: str) -> str:
    """The job id. Raises ScaledlError with what sbatch says."""
    done = _call("sbatch", "--parsable", *options, text=script)
    if done.returncode:
        raise ScaledlError(f"sbatch refused the job: {_last_line(done)}")
    return done.stdout.strip().splitlines()[-1].partition(";")[0]


@dataclass(frozen=True)
class Job:
    """One job, or one element of an array."""

    id: str
    state: str
    exit_code: int
    restarts: int
    reason: str
    log: Path | None


def show_jobs(id: str) -> list[Job] | None:
    """The job, or the elements of an array; [] when Slurm has forgotten it, None when it does not answer."""
    try:
        done = _call("scontrol", "show", "job", "--oneliner", id)
    except ScaledlError:
        return None
    if done.returncode:
        return [] if "Invalid job id" in done.stderr else None
    return [_job(fields_of(line)) for line in done.stdout.splitlines() if line.strip()]


def _job(fields: Mapping[str, str]) -> Job:
    array, index = fields.get("ArrayJobId"), fields.get("ArrayTaskId")
    log = fields.get("StdOut", "")
    return Job(
        id=f"{array}_{index}" if array and index else fields.get("JobId", ""),
        state=fields.get("JobState", "UNKNOWN"),
        exit_code=int(fields.get("ExitCode", "0:0").partition(":")[0] or 0),
        restarts=int(fields.get("Restarts", "0")),
        reason=fields.get("Reason", ""),
        log=Path(log) if log.startswith("/") else None,
    )


def fields_of(line: str) -> dict[str, str]:
    """What `scontrol --oneliner` prints; values may hold spaces.

    >>> fields_of("JobId=7 Comment=two words StdOut=/x/a b.log Restarts=1")
    {'JobId': '7', 'Comment': 'two words', 'StdOut': '/x/a b.log', 'Restarts': '1'}
    """
    starts = [*_FIELD.finditer(line)]
    ends = [*(match.start() for match in starts[1:]), len(line)]
    return {match[1]: line[match.end() : end].strip() for match, end in zip(starts, ends, strict=True)}


def final_state(id: str) -> tuple[str, int] | None:
    """State and exit code from the accounting, for a job that the controller has forgotten; None without accounting."""
    try:
        done = _call("sacct", "--noheader", "--parsable2", "--allocations", "--format=State,ExitCode", "--jobs", id)
    except ScaledlError:
        return None
    rows = [line.split("|") for line in done.stdout.splitlines() if "|" in line]
    if done.returncode or not rows:
        return None
    state, code = rows[-1][:2]
    return state.split()[0], int(code.partition(":")[0] or 0)


def partitions() -> list[dict[str, str]] | None:
    """Fields of all partitions; None when Slurm does not answer."""
    try:
        done = _call("scontrol", "show", "partition", "--oneliner")
    except ScaledlError:
        return None
    return None if done.returncode else [fields_of(line) for line in done.stdout.splitlines() if line.strip()]


def _call(*command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, input=text, capture_output=True, text=True, errors="replace", timeout=ANSWER_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ScaledlError(f"{command[0]} did not answer within {ANSWER_SECONDS:.0f} s") from None
    except OSError as error:
        raise ScaledlError(f"{command[0]} cannot be started: {error.strerror}") from error


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr + done.stdout).strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"
