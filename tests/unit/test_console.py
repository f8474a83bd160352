"""What is written where: results, events, tables and progress."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time

import pytest

from scaledl import console as module
from scaledl.console import Console, get_console

pytestmark = pytest.mark.unit

Capture = pytest.CaptureFixture[str]


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def console() -> Console:
    return Console()


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Called by the test itself: pytest sets sys.stdout anew between fixtures and test."""
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", stream)
    return stream


def test_there_is_one() -> None:
    assert get_console() is get_console()


def test_streams(console: Console, capsys: Capture) -> None:
    console.info("event")
    console.warn("careful")
    console.error("broken")
    console.result("42")
    out, err = capsys.readouterr()
    assert out == "event\n42\n"
    assert err == "warning: careful\nerror: broken\n"


def test_with_json_only_the_result_is_on_standard_output(console: Console, capsys: Capture) -> None:
    console.configure(json=True)
    console.info("event")
    console.table(["a"], [["1"]])
    with console.progress("train", 2) as progress:
        progress.advance(2)
    document = json.dumps({"name": "a\x1bb", "é": "\u2028"}, ensure_ascii=False)
    console.result(document)
    out, err = capsys.readouterr()
    assert out == document + "\n"
    assert "event" in err
    assert "step 2/2" in err


def test_quiet_keeps_warnings_and_results(console: Console, capsys: Capture) -> None:
    console.configure(quiet=True)
    console.info("event")
    with console.progress("train", 1) as progress:
        progress.advance()
    console.warn("careful")
    console.result("42")
    assert capsys.readouterr() == ("42\n", "warning: careful\n")


def test_what_a_command_comes_to_twice_is_warned_of_once(console: Console, capsys: Capture) -> None:
    for text in ("careful", "careful", "hot"):
        console.warn_once(text)
    assert capsys.readouterr().err == "warning: careful\nwarning: hot\n"
    console.configure()
    console.warn_once("careful")
    assert capsys.readouterr().err == "warning: careful\n"


HOSTILE = "\x1b]0;title\x07\x1b[2J\rname\x9b31m\u202etxt\udcff\x00"


def test_control_characters_are_written_out(console: Console, capsys: Capture) -> None:
    console.info(HOSTILE)
    console.warn(HOSTILE)
    console.error(HOSTILE)
    console.result(HOSTILE)
    console.table([HOSTILE], [[HOSTILE]], title=HOSTILE)
    with console.progress(HOSTILE, 1) as progress:
        progress.advance(1, name=HOSTILE)
    out, err = capsys.readouterr()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", out + err)
    assert r"\x1b[2J\rname\x9b31m\u202etxt\udcff\x00" in out


def test_square_brackets_are_not_markup(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    console.table(["[red]x[/red]"], [["[bold]1[/bold]"]], title="[link=x]t[/link]")
    assert all(part in terminal.getvalue() for part in ("[red]x[/red]", "[bold]1[/bold]", "[link=x]t[/link]"))


def test_an_ascii_stream_does_not_raise(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    console.info("größe ×2")
    assert raw.getvalue() == b"gr\\xf6\\xdfe \\xd72\n"


def test_table_is_aligned(console: Console, capsys: Capture) -> None:
    console.table(["stage", "size"], [["teacher", "1,024 KiB"], ["数", "5 KiB"]], title="before and after")
    assert capsys.readouterr().out.splitlines() == [
        "before and after",
        "stage         size",
        "-------  ---------",
        "teacher  1,024 KiB",
        "数           5 KiB",
    ]


def test_table_without_rows(console: Console, capsys: Capture) -> None:
    console.table(["a", "bb"], [])
    assert capsys.readouterr().out == "a  bb\n-  --\n"


def test_progress_in_a_file_is_one_line_at_the_end_when_short(console: Console, capsys: Capture) -> None:
    with console.progress("train", 400) as progress:
        for _ in range(120):
            progress.advance(1, epoch="3/10", loss=0.41)
    line = capsys.readouterr().out
    assert re.fullmatch(r"train  epoch 3/10  step 120/400  30 %  loss 0.41  after 0:0\d\n", line)


def test_progress_in_a_file_is_a_line_now_and_then(
    console: Console, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with console.progress("train", 400, done=100) as progress:
        for _ in range(200):
            clock[0] += 0.25
            progress.advance(loss=lambda: 0.5)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train  step 140/400  35 %  loss 0.5  ETA 1:05"
    assert len(lines) == 6
    assert lines[-1] == "train  step 300/400  75 %  loss 0.5  after 0:50"


def test_progress_of_nothing_and_of_too_much(console: Console, capsys: Capture) -> None:
    with console.progress("none", 0, unit="sample"):
        pass
    with console.progress("more", 1) as progress:
        progress.advance(3)
    out = capsys.readouterr().out
    assert "none  sample 0/0  100 %" in out
    assert "more  step 3/1  300 %" in out


def test_a_live_bar_draws_and_ends_with_a_plain_line(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    monkeypatch.setattr(module, "LIVE_SECONDS", 0.0)
    with console.progress("train", 10) as progress:
        progress.advance(5, loss=0.5)
        console.info("in between")
    text = terminal.getvalue()
    assert "━" in text
    assert "step 5/10  50 %  loss 0.5  ETA" in text
    assert "in between" in text
    assert text.endswith("train  step 5/10  50 %  loss 0.5  after 0:00\n")
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert sys.stdout is terminal


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_bar_gives_the_cursor_back(
    console: Console, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    terminal = on_terminal(monkeypatch)

    def interrupted() -> None:
        with console.progress("outer", 2), console.progress("inner", 2) as progress:
            progress.advance()
            raise error

    for _ in range(2):
        with pytest.raises(error):
            interrupted()
        assert terminal.getvalue().rindex("\x1b[?25h") > terminal.getvalue().rindex("\x1b[?25l")
        assert sys.stdout is terminal


def test_no_color_and_dumb_terminals(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    monkeypatch.setattr(sys, "stderr", terminal)
    console.warn("x")
    assert terminal.getvalue() == "\x1b[33mwarning: x\x1b[0m\n"
    monkeypatch.setenv("NO_COLOR", "1")
    console.warn("y")
    console.table(["a"], [["1"]], title="t")
    assert not re.search(r"\x1b\[[\d;]*3\d", terminal.getvalue()[len("\x1b[33mwarning: x\x1b[0m\n") :])
    before = len(terminal.getvalue())
    monkeypatch.setenv("TERM", "dumb")
    with console.progress("train", 1) as progress:
        progress.advance()
    assert "\x1b" not in terminal.getvalue()[before:]


def test_advance_costs_under_five_microseconds(console: Console, capsys: Capture) -> None:
    with console.progress("train", 1_000_000) as progress:
        rounds = []
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(10_000):
                progress.advance(1, loss=0.5)
            rounds.append((time.perf_counter() - start) / 10_000)
    assert min(rounds) < 5e-6
    assert capsys.readouterr().out.count("\n") == 1


def test_a_reader_that_leaves_ends_nothing() -> None:
    code = (
        "import sys, time; from scaledl.console import get_console; console = get_console()\n"
        "sys.stdin.read()\n"
        "[console.info('x' * 1000) for _ in range(200)]\n"
        "print('survived', file=sys.stderr)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "survived\n")
