"""What a run keeps of an attempt, however it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaledl.config import Config
from scaledl.errors import Interrupted, Preempted, ScaledlError, UsageError
from scaledl.run import Run

pytestmark = pytest.mark.unit


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path, "name", "id", config=Config())


def test_the_block_finishes_the_run(run: Run) -> None:
    with run.attempt() as number:
        assert (number, run.state) == (1, "running")
        run.finish("complete", test_accuracy=0.5)
    assert run.state == "complete"


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (Preempted("stopped by SIGTERM"), "preempted", "stopped by SIGTERM"),
        (Interrupted("stopped by SIGINT"), "preempted", "stopped by SIGINT"),
        (KeyboardInterrupt(), "preempted", "interrupted"),
        (UsageError("data.source: wrong"), "failed", "data.source: wrong"),
        (ValueError("broken"), "failed", "ValueError: broken"),
    ],
)
def test_what_ends_it_early_is_kept(run: Run, error: BaseException, status: str, text: str) -> None:
    with pytest.raises(type(error)), run.attempt():
        raise error
    assert (run.manifest.status, run.manifest.error) == (status, text)


def test_the_next_attempt_begins_anew(run: Run) -> None:
    with pytest.raises(ValueError, match="once"), run.attempt():
        raise ValueError("once")
    with run.attempt() as number:
        assert (number, run.manifest.error) == (2, None)
        run.finish("complete")


def test_the_first_error_is_shown_when_the_status_cannot_be_kept(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise ScaledlError("disk full")

    monkeypatch.setattr(run, "finish", full)
    with pytest.raises(ValueError, match="first"), run.attempt():
        raise ValueError("first")
    assert "disk full" in capsys.readouterr().err
