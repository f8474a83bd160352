"""What the user sees: plain lines in a file, a live display on a terminal, and one result on standard output."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.progress import Progress as RichProgress

Field = str | float | int | Callable[[], float]

PLAIN_SECONDS = 10.0
LIVE_SECONDS = 0.25
_YELLOW, _RED, _RESET = "\x1b[33m", "\x1b[31m", "\x1b[0m"
# C0 but tab and newline, DEL, C1, line separators, marks that reverse text, lone surrogates of undecodable file names
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with control characters written out, so that a name cannot move the cursor or colour the terminal.

    >>> printable("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)


class Console:
    """One per process, from `get_console`. The streams are looked up at every write."""

    def __init__(self) -> None:
        self._json = False
        self._quiet = False
        self._prefix = ""
        self._live: RichProgress | None = None
        self._told: set[str] = set()

    def configure(self, *, json: bool = False, quiet: bool = False, prefix: str = "") -> None:
        """json: everything but `result` goes to standard error. quiet: no events and no progress.

        prefix: begins warnings and errors, of a process that is one of several.
        """
        self._json, self._quiet, self._prefix = json, quiet, prefix
        self._told.clear()

    def info(self, text: str) -> None:
        """One event."""
        if not self._quiet:
            _write(self._stream, printable(text))

    def warn(self, text: str) -> None:
        _write(sys.stderr, _coloured(sys.stderr, _YELLOW, f"warning: {printable(self._prefix + text)}"))

    def warn_once(self, text: str) -> None:
        """A warning that one command may come to several times."""
        if text not in self._told:
            self._told.add(text)
            self.warn(text)

    def error(self, text: str) -> None:
        _write(sys.stderr, _coloured(sys.stderr, _RED, f"error: {printable(self._prefix + text)}"))

    def result(self, text: str) -> None:
        """The verb's result on standard output; with json it is written as it is."""
        _write(sys.stdout, text if self._json else printable(text))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
        """An aligned table; columns of numbers to the right."""
        assert all(len(row) == len(columns) for row in rows), "a row of another length"
        header = [printable(name) for name in columns]
        cells = [[printable(str(cell)) for cell in row] for row in rows]
        if is_terminal(self._stream):
            self._rich_table(header, cells, title)
        else:
            _write(self._stream, "\n".join([*([printable(title)] if title else []), *_aligned(header, cells)]))

    def progress(self, description: str, total: int, *, unit: str = "step", done: int = 0) -> Progress:
        """A context manager to `advance`; `done` is where a resumed run goes on."""
        return Progress(self, description, total, unit=unit, done=done)

    @property
    def _stream(self) -> TextIO:
        return sys.stderr if self._json else sys.stdout

    def _rich_table(self, columns: list[str], rows: list[list[str]], title: str | None) -> None:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD, title=Text(printable(title)) if title else None, title_justify="left")
        for i, name in enumerate(columns):
            right = _is_numeric([row[i] for row in rows])
            table.add_column(Text(name), justify="right" if right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        _rich_console(self._stream).print(table)


class Progress:
    """Counts steps. Fields like "3/10" (of `epoch`) are shown before the count, all others after it."""

    def __init__(self, console: Console, description: str, total: int, *, unit: str, done: int) -> None:
        self._console = console
        self._description = printable(description)
        self._unit = unit
        self._first = done
        self._started = self._due = time.monotonic()
        self._interval = PLAIN_SECONDS
        self._view: _LiveView | None = None
        self.total = total
        self.done = done
        self.fields: dict[str, Field] = {}

    def __enter__(self) -> Progress:
        self._started = time.monotonic()
        if is_terminal(self._console._stream) and not self._console._quiet:
            self._interval = LIVE_SECONDS
            self._view = _LiveView(self._console, self._description, self.total)
        self._due = self._started + self._interval
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._view is not None:
            self._view.close()  # first of all: gives the cursor back, whatever comes next
        self._console.info(self._line(ended=True))

    def advance(self, n: int = 1, **fields: Field) -> None:
        """Count `n` steps. A field may be a function of no arguments: it is called only when it is shown."""
        self.done += n
        if fields:
            self.fields.update(fields)
        if time.monotonic() >= self._due:
            self._show()

    def _show(self) -> None:
        if self._view is not None:
            self._view.show(self.done, self._status(), self._eta())
        else:
            self._console.info(self._line(ended=False))
        self._due = time.monotonic() + self._interval

    def _line(self, ended: bool) -> str:
        seconds = time.monotonic() - self._started
        ending = f"after {_clock(seconds)}" if ended else f"ETA {self._eta()}"
        return "  ".join(part for part in (self._description, self._status(), ending) if part)

    def _status(self) -> str:
        shown = {name: _shown(value() if callable(value) else value) for name, value in self.fields.items()}
        before = [f"{name} {value}" for name, value in shown.items() if "/" in value]
        after = [f"{name} {value}" for name, value in shown.items() if "/" not in value]
        share = self.done / self.total if self.total > 0 else 1.0
        return "  ".join([*before, f"{self._unit} {self.done}/{self.total}", f"{share:.0%}".replace("%", " %"), *after])

    def _eta(self) -> str:
        """From the mean speed so far, pauses included."""
        steps, left = self.done - self._first, self.total - self.done
        if steps <= 0:
            return "?"
        return _clock(max(0, left) * (time.monotonic() - self._started) / steps)


class _LiveView:
    """One bar of rich's display. It refreshes only when asked to: no thread, nothing between two steps."""

    def __init__(self, console: Console, description: str, total: int) -> None:
        self._console = console
        self._first = console._live is None
        if console._live is None:
            console._live = _live_display(console._stream)
        self._display = console._live
        self._task = self._display.add_task(description, total=max(total, 1), status="", eta="?")
        try:
            self._display.refresh()
        except BaseException:  # Ctrl-C while it draws
            self.close()
            raise

    def show(self, done: int, status: str, eta: str) -> None:
        self._display.update(self._task, completed=done, status=status, eta=eta, refresh=True)

    def close(self) -> None:
        """Remove the bar; the outermost one ends the display and restores the cursor."""
        try:
            self._display.remove_task(self._task)
        finally:
            if self._first:
                self._console._live = None
                self._display.stop()


def _live_display(stream: TextIO) -> RichProgress:
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress
    from rich.table import Column

    one_line = Column(no_wrap=True, overflow="ellipsis")
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[status]}  ETA {task.fields[eta]}", markup=False, table_column=one_line),
    )
    display = RichProgress(*columns, console=_rich_console(stream), auto_refresh=False, transient=True)
    try:
        display.start()
    except BaseException:
        display.stop()
        raise
    return display


def _rich_console(stream: TextIO) -> RichConsole:
    from rich.console import Console as RichConsole

    return RichConsole(file=stream, highlight=False, markup=False, emoji=False)


def is_terminal(stream: TextIO) -> bool:
    """Whether a live display works there."""
    return os.environ.get("TERM") != "dumb" and stream.isatty()


def _coloured(stream: TextIO, colour: str, text: str) -> str:
    return f"{colour}{text}{_RESET}" if is_terminal(stream) and not os.environ.get("NO_COLOR") else text


def _write(stream: TextIO, text: str) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
    except BrokenPipeError:
        _silence(stream)


def _silence(stream: TextIO) -> None:
    """The reader has left (`| head`): that ends neither a training nor, with a complaint, the interpreter."""
    with contextlib.suppress(OSError, ValueError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)


def _aligned(columns: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(map(_width, cells)) for cells in zip(columns, *rows, strict=True)]
    right = [_is_numeric([row[i] for row in rows]) for i in range(len(columns))]
    rule = ["-" * width for width in widths]
    return [_joined(cells, widths, right) for cells in (columns, rule, *rows)]


def _joined(cells: list[str], widths: list[int], right: list[bool]) -> str:
    padded = []
    for cell, width, is_right in zip(cells, widths, right, strict=True):
        space = " " * (width - _width(cell))
        padded.append(space + cell if is_right else cell + space)
    return "  ".join(padded).rstrip()


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _is_numeric(cells: Sequence[str]) -> bool:
    """Whether these look like figures, units included ("12.3 ms", "1,024", "×4.1", "-")."""
    return bool(cells) and all(
        cell in ("", "-") or re.match(r"[-+×x~<>≤≥]? ?\d[\d.,]*( ?\D{0,6})?$", cell) for cell in cells
    )


def _shown(value: str | float) -> str:
    return printable(value) if isinstance(value, str) else f"{value:.4g}"


def _clock(seconds: float) -> str:
    """
    >>> _clock(42), _clock(3723)
    ('0:42', '1:02:03')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


_console = Console()


def get_console() -> Console:
    """The process's console."""
    return _console
