"""The rank's end of the pipe, and what the guardian makes of what comes out of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scaledl.distributed import link as link_module
from scaledl.distributed.link import LINK_VARIABLE, MARK, RankLink, current_link, decode, open_pipe
from scaledl.distributed.status import RankStatus
from scaledl.distributed.ward import Ward

pytestmark = pytest.mark.unit


class Pair:
    """A link, without the signal for stacks, and the ward at its other end."""

    def __init__(self) -> None:
        reader, self.writer = open_pipe()
        self.link = RankLink()
        self.link._descriptor, self.link._due = self.writer, 0.0
        self.code: int | None = None
        self.ward = Ward(RankStatus("this", "starting", rank=3), reader, lambda: self.code)

    def heard(self) -> RankStatus:
        self.ward.read()
        return self.ward.status

    def raw(self, data: bytes) -> None:
        os.write(self.writer, data)


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.link.close()
    pair.ward.close()


def test_an_announced_training(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pair.link.announce("run/ranks", 2, 900.0, step=300)
    pair.link.phase("train")
    found = pair.heard()
    assert (found.status, found.attempt, found.step, found.start_step) == ("running", 2, 300, 300)
    assert pair.ward.folders == [tmp_path / "run" / "ranks"]
    assert pair.ward.phase == "train"
    assert found.time


def test_the_first_tick_tells_where_an_attempt_began(pair: Pair, tmp_path: Path) -> None:
    pair.link.announce(tmp_path, 1, None)
    assert (pair.heard().step, pair.heard().start_step) == (0, 0)
    pair.link.tick(301)
    pair.link._due = 0.0
    pair.link.tick(302)
    assert (pair.heard().step, pair.heard().start_step) == (302, 301)


def test_steps_are_told_twice_a_second_and_with_every_other_message(pair: Pair) -> None:
    for step in range(1000):
        pair.link.tick(step)
    assert pair.heard().step == 0
    pair.link.phase("validate")
    assert pair.heard().step == 999
    pair.link.tick(1000)
    assert pair.heard().step == 1000


def test_another_training_of_the_same_process(pair: Pair, tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    pair.link.announce(first, 1, None)
    pair.link.tick(50)
    pair.link.announce(second, 3, None)
    assert (pair.heard().step, pair.heard().attempt) == (0, 3)
    pair.link.announce(first, 2, None)
    pair.ward.read()
    assert pair.ward.folders == [second, first]


def test_the_last_word(pair: Pair) -> None:
    pair.link.final("failed", "two\nlines" + "x" * 9000)
    pair.ward.read()
    assert pair.ward.final == "failed"
    assert pair.ward.said.startswith("two lines")
    assert len(pair.ward.said) == 500


def test_only_silence_in_a_watched_phase_is_a_hang(pair: Pair, tmp_path: Path) -> None:
    def hangs() -> bool:
        pair.ward.read()
        return pair.ward.hangs

    pair.link.announce(tmp_path, 1, 1e-9)
    assert not hangs()
    for phase, expected in (("train", True), ("idle", False), ("validate", True), ("setup", False)):
        pair.link.phase(phase)
        assert hangs() is expected
    pair.link.announce(tmp_path, 1, None)
    pair.link.phase("train")
    assert not hangs()


def test_a_full_pipe_costs_ticks_but_no_time(pair: Pair) -> None:
    size = 0
    while True:
        try:
            size += os.write(pair.writer, b"x" * 4096)
        except BlockingIOError:
            break
    for step in range(3):
        pair.link._due = 0.0
        pair.link.tick(step)
    assert pair.heard().step == 0
    pair.raw(b"\n")
    pair.link._due = 0.0
    pair.link.tick(4)
    assert pair.heard().step == 4


def test_a_guardian_that_is_gone(pair: Pair) -> None:
    pair.ward.close()
    pair.link.phase("train")
    assert not pair.link.guarded
    pair.link.tick(1), pair.link.announce("x", 1, None), pair.link.final("complete")


def test_without_a_guardian_nothing_happens() -> None:
    link = RankLink()
    assert not link.guarded
    link.announce("x", 1, 5.0), link.phase("train"), link.tick(3), link.final("complete"), link.close()


@pytest.mark.parametrize("text", ["", "x", "-1", "99999", "9" * 30, "0.5"])
def test_a_variable_that_means_no_pipe(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_link", None)
    monkeypatch.setenv(LINK_VARIABLE, text)
    assert not current_link().guarded
    assert LINK_VARIABLE not in os.environ
    assert current_link() is current_link()


def test_a_file_is_no_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_link", None)
    with (tmp_path / "file").open("w") as file:
        monkeypatch.setenv(LINK_VARIABLE, str(file.fileno()))
        assert not current_link().guarded
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize(
    "line", [b"", b"text", MARK, MARK + b"[]", MARK + b"{", MARK + b"3", b"\xff", b'{"step": 1}', MARK + b"\xff"]
)
def test_what_is_no_message(line: bytes) -> None:
    assert decode(line) is None


def test_a_message_after_one_that_was_cut_off() -> None:
    assert decode(MARK + b'{"st' + MARK + b'{"step": 2}') == {"step": 2}


@pytest.mark.parametrize(
    "message",
    [b'{"step": "x"}', b'{"step": null}', b'{"folder": 3}', b'{"folder": "x"}', b'{"final": "failed"}', b'{"new": 1}'],
)
def test_a_message_that_makes_no_sense_is_passed_over(pair: Pair, message: bytes) -> None:
    pair.raw(MARK + message + b"\n" + MARK + b'{"step": 5}\n')
    assert pair.heard().step == 5


def test_text_between_messages_is_a_stack(pair: Pair) -> None:
    pair.raw(b"Thread 0x1:\n" + MARK + b'{"step": 5}\n  File "x", line 1 in f\n')
    assert pair.heard().step == 5
    assert pair.ward.stack == b'Thread 0x1:\n  File "x", line 1 in f\n'
    assert not pair.ward.shows_stack_unasked
    time.sleep(0.35)
    assert pair.ward.shows_stack_unasked


def test_what_a_rank_said_last_is_read_after_its_end(pair: Pair) -> None:
    pair.link.tick(8)
    pair.link.final("preempted", "saved")
    assert not pair.ward.reap()
    pair.code = 75
    assert pair.ward.reap()
    assert not pair.ward.reap()
    pair.ward.settle(None, interrupted=False)
    found = pair.ward.status
    assert (found.status, found.step, found.message, found.exit) == ("preempted", 8, "saved", 75)
    assert pair.ward.code == 75
