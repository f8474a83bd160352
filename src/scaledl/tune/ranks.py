"""A trial on several ranks: processes of their own on the worker's node, which come together as any training's do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scaledl.distributed.parent import dying_with
from scaledl.run import Run, atomic_write

ORDER, REPORTS = "order.json", "reports.jsonl"
PROGRAM = "scaledl.commands.trial_ranks"
_POLL_SECONDS = 0.05
_LEAVE_SECONDS = 60.0
Tell = Callable[[int, Mapping[str, float]], None]


class RanksDied(Exception):
    """The ranks ended without a result: a process was killed, or could not begin."""


def work_on_ranks(order_text: str, run: Run, tell: Tell, over: threading.Event, threads: int) -> dict[str, Any] | None:
    """Run the trial and give back its last report; None when `over` was set and the ranks have left.

    Raises RanksDied for what another attempt may mend.
    """
    atomic_write(run.path / ORDER, order_text)
    reports = run.path / REPORTS
    seen = reports.stat().st_size if reports.exists() else 0
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", PROGRAM, str(run.path / ORDER)],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdin=subprocess.DEVNULL,
        stdout=sys.stdout.fileno(),
        stderr=subprocess.STDOUT,
        preexec_fn=dying_with(os.getpid()),
    )
    last: dict[str, Any] | None = None
    try:
        while True:
            ended = process.poll() is not None
            lines, seen = _new_lines(reports, seen)
            for report in lines:
                last = report if "state" in report else last
                if "epoch" in report:
                    tell(report["epoch"], report["metrics"])
            if ended or over.is_set():
                break
            time.sleep(_POLL_SECONDS)
    finally:
        _end(process)
    if last is None and not over.is_set():
        raise RanksDied(f"its ranks ended with exit code {process.returncode}; {run.path / 'log.txt'} says why")
    return last


def _new_lines(path: Path, seen: int) -> tuple[list[dict[str, Any]], int]:
    """Whole lines beyond byte `seen`."""
    if not path.exists():
        return [], seen
    with path.open("rb") as file:
        file.seek(seen)
        content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()], seen + len(whole)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let the ranks save and leave."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def write_report(run: Run, report: dict[str, Any]) -> None:
    """One line for the worker."""
    with (run.path / REPORTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(report) + "\n")
