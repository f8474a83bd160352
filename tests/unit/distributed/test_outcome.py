"""From exit codes, signals and last words to a status."""

import signal

import pytest

from scaledl.distributed.outcome import Ending, outcome
from scaledl.distributed.status import RankStatus

pytestmark = pytest.mark.unit

RUNNING = RankStatus("this", "running", step=7, rank=1, host="n2", pid=5)
CAUSE = RankStatus("this", "killed", rank=0, host="n1", pid=4, signal="SIGKILL", exit=137)
WHY = "stopped because rank 0 on n1 (process 4) was killed by SIGKILL (signal 9), perhaps by the out-of-memory killer"


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        (Ending(0), ("complete", "", 0, "")),
        (Ending(1), ("failed", "", 1, "")),
        (Ending(1, "failed", "no space"), ("failed", "", 1, "no space")),
        (Ending(1, "complete"), ("failed", "", 1, "")),  # it fell after its last word
        (Ending(1, "stopped"), ("stopped", "", 1, "")),
        (Ending(2, "stopped"), ("stopped", "", 2, "")),
        (Ending(0, "stopped"), ("complete", "", 0, "")),
        (Ending(-9), ("killed", "SIGKILL", 137, "")),
        (Ending(-9, "complete"), ("killed", "SIGKILL", 137, "")),
        (Ending(-signal.SIGTERM, "preempted", "saved"), ("preempted", "", 75, "saved")),
        (Ending(-signal.SIGTERM, "complete"), ("complete", "", 0, "")),
        (Ending(-signal.SIGINT, "interrupted"), ("interrupted", "", 130, "")),
        (Ending(-signal.SIGTERM), ("preempted", "SIGTERM", 143, "ended by SIGTERM before it could save anything")),
        (Ending(-signal.SIGUSR1), ("preempted", "SIGUSR1", 138, "ended by SIGUSR1 before it could save anything")),
        (Ending(-signal.SIGINT), ("interrupted", "SIGINT", 130, "ended by SIGINT before it could save anything")),
        (Ending(-40), ("killed", "signal 40", 168, "")),
    ],
)
def test_a_rank_by_itself(ending: Ending, expected: tuple[str, str, int, str]) -> None:
    found = outcome(RUNNING, ending, None, False)
    assert (found.status, found.signal, found.exit, found.message) == expected
    assert (found.step, found.rank, found.pid) == (7, 1, 5)


@pytest.mark.parametrize(
    ("ending", "status", "message"),
    [
        (Ending(1), "stopped", WHY),
        (Ending(1, "failed", "connection closed by peer"), "stopped", WHY),
        (Ending(-9), "stopped", WHY),
        (Ending(-signal.SIGABRT), "stopped", WHY),
        (Ending(0), "complete", ""),
        (Ending(75, "preempted", "saved"), "preempted", "saved"),
        (Ending(130), "interrupted", ""),
    ],
)
def test_a_rank_that_ends_after_another_one_fell(ending: Ending, status: str, message: str) -> None:
    found = outcome(RUNNING, ending, CAUSE, False)
    assert (found.status, found.message) == (status, message)


def test_the_cause_keeps_its_own_words() -> None:
    hung = RankStatus("this", "hung", rank=1, message="no progress for 9 s")
    found = outcome(RUNNING, Ending(-9), hung, False)
    assert (found.status, found.signal, found.exit, found.message) == ("hung", "SIGKILL", 137, "no progress for 9 s")


def test_ctrl_c_that_came_as_a_sigterm() -> None:
    found = outcome(RUNNING, Ending(75, "preempted"), None, True)
    assert (found.status, found.exit) == ("interrupted", 130)
    assert outcome(RUNNING, Ending(0), None, True).status == "complete"
