"""`scaledl runs --watch`: a table that follows the running jobs, or lines of it where there is no terminal."""

from __future__ import annotations

import select
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from scaledl.commands.snapshot import Snapshot, running_runs, take_snapshot
from scaledl.console import get_console, is_terminal, printable
from scaledl.errors import ScaledlError
from scaledl.run import Run

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("run", "status", "attempt", "step", "epoch", "loss", "steps/s", "ETA", "ranks", "hosts", "seen")
TERMINAL_SECONDS = 2.0
PLAIN_SECONDS = 10.0
SPEED_SECONDS = 60.0
DISPENSABLE = ("hosts", "attempt", "epoch", "seen", "ranks", "loss", "steps/s")  # on a narrow terminal, in this order
_PADDING = 3  # of a column, and one more at the edge
UNKNOWN = "-"


@dataclass
class Watch:
    """What is watched: every run that runs, and to the end those that were seen running."""

    root: Path
    _runs: dict[Path, Run] = field(default_factory=dict)
    _last: dict[Path, Snapshot] = field(default_factory=dict)
    _steps: dict[Path, deque[tuple[float, int]]] = field(default_factory=dict)
    _ended: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def look(self) -> list[tuple[Snapshot, float | None]]:
        """Each run with its steps a second. A run that was removed is not shown any more."""
        self._runs.update({run.path: run for run in running_runs(self.root, self._ended)})
        found = []
        for path, run in list(self._runs.items()):
            try:
                snapshot = take_snapshot(run)
            except (ScaledlError, OSError):
                self._runs.pop(path)
                continue
            found.append((snapshot, self._speed(path, snapshot)))
            self._last[path] = snapshot
        return found

    def _speed(self, path: Path, snapshot: Snapshot) -> float | None:
        """Over the last minute of watching, else since the attempt began."""
        last = self._last.get(path)
        if last is not None and (last.attempt, last.label) != (snapshot.attempt, snapshot.label):
            self._steps.pop(path, None)
        if snapshot.status != "running" or snapshot.step is None:
            return None
        steps = self._steps.setdefault(path, deque())
        moment = time.monotonic()
        steps.append((moment, snapshot.step))
        while len(steps) > 2 and moment - steps[1][0] >= SPEED_SECONDS:
            steps.popleft()
        (then, before), (_, now) = steps[0], steps[-1]
        return (now - before) / (moment - then) if now > before else mean_speed(snapshot)


def mean_speed(snapshot: Snapshot) -> float | None:
    """Since the attempt began, imports included."""
    since, seen, step, start = snapshot.since, snapshot.seen, snapshot.step, snapshot.start_step
    if since is None or seen is None or step is None or start is None or seen <= since or step <= start:
        return None
    return (step - start) / (seen - since)


def watch(root: Path, seconds: float | None) -> None:
    """Until Ctrl-C, or until nothing runs any more of what ran."""
    watched = Watch(root)
    with suppress(KeyboardInterrupt):
        if is_terminal(sys.stdout):
            _live(watched, watched.look(), seconds or TERMINAL_SECONDS)
        else:
            _lines(watched, watched.look(), seconds or PLAIN_SECONDS)


def show_once(root: Path) -> None:
    rows = Watch(root).look()
    console = get_console()
    console.table(COLUMNS, [row(*found) for found in rows]) if rows else console.result(_nothing(root))


def documents(root: Path) -> list[dict[str, object]]:
    """The running jobs for JSON; speed in steps a second, times in seconds."""
    return [
        {**asdict(snapshot), "steps_per_second": speed, "eta_seconds": eta_seconds(snapshot, speed)}
        for snapshot, speed in Watch(root).look()
    ]


Rows = Sequence[tuple[Snapshot, float | None]]


def _lines(watched: Watch, rows: Rows, seconds: float) -> None:
    console = get_console()
    if not rows:
        console.result(_nothing(watched.root))
    ended: set[str] = set()  # said once
    seen_running = False
    while True:
        if _reader_has_left():
            return
        for snapshot, speed in rows:
            if snapshot.label not in ended:
                console.result(line(snapshot, speed))
            (ended.discard if snapshot.status == "running" else ended.add)(snapshot.label)
        if _is_over(rows, seen_running):
            return
        seen_running = seen_running or bool(rows)
        time.sleep(seconds)
        rows = watched.look()


def _reader_has_left() -> bool:
    """`| head`."""
    with suppress(OSError, ValueError, AttributeError):
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return bool(poll.poll(0))
    return False


def _live(watched: Watch, rows: Rows, seconds: float) -> None:
    from rich.live import Live

    seen_running = False
    with Live(auto_refresh=False, vertical_overflow="ellipsis") as live:
        live.console.show_cursor(True)  # it would stay hidden after a kill
        while True:
            live.update(_table(watched.root, rows, live.console.width), refresh=True)
            if _is_over(rows, seen_running):
                return
            seen_running = seen_running or bool(rows)
            time.sleep(seconds)
            rows = watched.look()


def _is_over(rows: Rows, seen_running: bool) -> bool:
    return (seen_running or bool(rows)) and not any(snapshot.status == "running" for snapshot, _ in rows)


def _table(root: Path, rows: Rows, width: int) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, caption=None if rows else Text(_nothing(root)), caption_justify="left")
    cells = [row(*found) for found in rows]
    shown = fitting_columns(cells, width)
    for name in shown:
        left = name in ("run", "status", "hosts")
        table.add_column(Text(name), justify="left" if left else "right", overflow="fold", no_wrap=name != "run")
    for one in cells:
        table.add_row(*(Text(printable(one[COLUMNS.index(name)])) for name in shown))
    return table


def fitting_columns(cells: Sequence[Sequence[str]], width: int) -> list[str]:
    """The columns that a terminal of this width has room for."""
    widths = {name: max(map(len, (name, *values))) for name, *values in zip(COLUMNS, *cells, strict=True)}
    shown = list(COLUMNS)
    for name in DISPENSABLE:
        if sum(widths[column] + _PADDING for column in shown) >= width:
            shown.remove(name)
    return shown


def _nothing(root: Path) -> str:
    return f"nothing runs in {root}/"


def row(snapshot: Snapshot, speed: float | None) -> list[str]:
    """A run as cells of the table."""
    return [
        snapshot.label,
        snapshot.status,
        str(snapshot.attempt),
        _of(snapshot.step, snapshot.total_steps),
        _of(snapshot.epoch, snapshot.epochs),
        UNKNOWN if snapshot.loss is None else f"{snapshot.loss:.4f}",
        UNKNOWN if speed is None else f"{speed:.3g}",
        eta(snapshot, speed),
        _of(snapshot.ranks_alive, snapshot.world_size),
        hosts(snapshot.hosts),
        age(snapshot.seen),
    ]


def line(snapshot: Snapshot, speed: float | None) -> str:
    """A run as one line."""
    cells = dict(zip(COLUMNS, row(snapshot, speed), strict=True))
    parts = [f"{name} {cells[name]}" for name in ("attempt", "step", "epoch", "loss", "steps/s", "ETA", "ranks")]
    known = [part for part in parts if not part.endswith(f" {UNKNOWN}")]
    return "  ".join([cells["run"], cells["status"], *known, f"on {cells['hosts']}", f"seen {cells['seen']} ago"])


def _of(count: int | None, total: int | None) -> str:
    """
    >>> _of(3, 10), _of(3, None), _of(None, 10)
    ('3/10', '3', '-')
    """
    if count is None:
        return UNKNOWN
    return str(count) if total is None else f"{count}/{total}"


def eta_seconds(snapshot: Snapshot, speed: float | None) -> float | None:
    if not speed or snapshot.total_steps is None or snapshot.step is None:
        return None
    return max(0, snapshot.total_steps - snapshot.step) / speed


def eta(snapshot: Snapshot, speed: float | None) -> str:
    seconds = eta_seconds(snapshot, speed)
    return UNKNOWN if seconds is None else clock(seconds)


def clock(seconds: float) -> str:
    """
    >>> clock(42), clock(3723), clock(200_000)
    ('0:42', '1:02:03', '2 d 7:33:20')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours}:{minutes:02}:{rest:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def hosts(names: Sequence[str]) -> str:
    """
    >>> hosts(("n1", "n2")), hosts(("n1", "n2", "n3", "n4"))
    ('n1 n2', 'n1 … n4 (4)')
    """
    return " ".join(names) if len(names) <= 2 else f"{names[0]} … {names[-1]} ({len(names)})"


def age(seen: float | None) -> str:
    """How long ago; the clocks of two machines differ."""
    return UNKNOWN if seen is None else clock(max(0.0, time.time() - seen))
