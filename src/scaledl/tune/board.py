"""What a search shows while it runs: one live line of everything on a terminal, a line for each event without one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType

from scaledl.config.space import shorten
from scaledl.console import get_console
from scaledl.tune.search import Search
from scaledl.tune.study import Trial, saved_seconds

LIVE_SECONDS = 0.5


@dataclass(frozen=True)
class Tally:
    """Where a search stands.

    `spent` and `saved` are seconds of trials: worked, and not worked because a trial was stopped early (at the pace
    of its own epochs). `busy`: share of the slots' time that trials were in work.
    """

    count: int
    running: int
    complete: int
    stopped: int
    failed: int
    spent: float
    saved: float
    epochs: int
    busy: float | None
    eta: float | None

    @property
    def ended(self) -> int:
        return self.complete + self.stopped + self.failed


def tally(search: Search, slots: int) -> Tally:
    trials = search.study.own()
    states = [trial.state for trial in trials]
    total = search.config.trainer.epochs
    ended = [trial for trial in trials if trial.state != "running"]
    spent = sum(trial.seconds for trial in trials if trial.number not in search.live) + sum(
        live.seconds for live in search.live.values()
    )
    saved = saved_seconds(ended, total)
    here = [trial for trial in ended if trial.ended and trial.ended >= search.began_at]
    left = search.count - len(ended)
    pace = search.up_seconds / len(here) if here else None
    failed = sum(state in ("failed", "nonfinite", "invalid") for state in states)
    return Tally(
        search.count,
        len(search.live),
        states.count("complete"),
        states.count("stopped"),
        failed,
        spent,
        saved,
        sum(trial.epochs for trial in ended),
        min(1.0, search.busy_seconds / (slots * search.up_seconds)) if slots and search.up_seconds > 1 else None,
        None if pace is None else pace * max(left, 0),
    )


def fields(now: Tally, best: float | None) -> dict[str, str]:
    """What stands beside the number of trials; what there is none of is left out."""
    parts = {
        "running": f"{now.running}",
        "stopped early": f"{now.stopped}" if now.stopped else "",
        "failed": f"{now.failed}" if now.failed else "",
        "best": "" if best is None else f"{best:.4g}",
        "busy": "" if now.busy is None else f"{now.busy:.0%}".replace("%", " %"),
        "spent": duration(now.spent),
        "saved": duration(now.saved) if now.saved else "",
    }
    return {name: text for name, text in parts.items() if text}


def duration(seconds: float) -> str:
    """Of trials, in their unit: trial-hours, or less.

    >>> duration(5400), duration(90), duration(5)
    ('1.5 h', '1.5 min', '5 s')
    """
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"


def describe_trial(trial: Trial, objectives: Iterable[str], default: Mapping[str, object]) -> str:
    """Its figures, and the keys in which it is another than the config."""
    figures = "  ".join(f"{name} {value:.4g}" for name, value in zip(objectives, trial.values, strict=False))
    names = list(trial.point)
    changed = {name: value for name, value in trial.point.items() if default.get(name) != value}
    keys = "  ".join(f"{shorten(name, names)}={_short(value)}" for name, value in changed.items())
    return f"{figures}  {keys or 'the config as it is'}"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


class Board:
    """`tick` it often; it decides when there is something to say."""

    def __init__(self, search: Search, slots: int) -> None:
        self._search, self._slots = search, slots
        self._default = search.space.default_point(search.config)
        self._best: int | None = None
        self._due = 0.0

    def __enter__(self) -> Board:
        self._search.up()
        self._progress = get_console().progress("tune", self._search.count, unit="trial", done=self._search.num_ended)
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show()
        self._progress.__exit__(kind, error, trace)

    def tick(self) -> None:
        search = self._search
        if search.num_ended == self._progress.done and time.monotonic() < self._due:
            return
        best = search.best_now
        if best is not None and best.number != self._best and len(search.config.objectives) == 1:
            self._best = best.number
            text = describe_trial(best, search.config.objectives, self._default)
            get_console().info(f"best so far: trial {best.number}  {text}")
        if time.monotonic() >= self._due:
            self._show()
            self._due = time.monotonic() + LIVE_SECONDS
            search.run.heartbeat()

    def _show(self) -> None:
        search = self._search
        now = tally(search, self._slots)
        best = search.best_now
        shown = fields(now, None if best is None else best.values[0])
        self._progress.advance(search.num_ended - self._progress.done, **shown)
