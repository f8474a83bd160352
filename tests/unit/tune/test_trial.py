"""A trial in its worker: epochs one by one, in lockstep or ahead, ended between two steps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scaledl.tasks.base import NonFiniteLossError
from scaledl.tune import objective
from scaledl.tune.trial import Order, Session, Watch, watch_of

pytestmark = pytest.mark.unit

EPOCHS, STEPS = 3, 2


class Training:
    """Calls the watch as Lightning would, and counts the steps."""

    def __init__(self, error: Exception | None = None) -> None:
        self.steps = 0
        self.moved = threading.Condition()
        self._error = error

    def work(self, order: Order, run: Any, watch: Any) -> dict[str, float]:
        for epoch in range(EPOCHS):
            for step in range(STEPS):
                watch.on_train_batch_start(None, None, None, step)
                with self.moved:
                    self.steps += 1
                    self.moved.notify_all()
            watch.on_validation_end(SimpleNamespace(current_epoch=epoch), SimpleNamespace(val_metrics={"a": epoch}))
        if self._error is not None:
            raise self._error
        return {"a": 1.0}

    def reaches(self, steps: int, seconds: float) -> bool:
        with self.moved:
            return self.moved.wait_for(lambda: self.steps >= steps, seconds)


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[Session, Training]]:
    def begin(*, lockstep: bool = False, error: Exception | None = None) -> tuple[Session, Training]:
        training = Training(error)
        monkeypatch.setattr(
            objective, "open_run", lambda order: SimpleNamespace(path=tmp_path, metrics_file=tmp_path / "m")
        )
        monkeypatch.setattr(objective, "work", training.work)
        return Session(Order("", "", 0, {}, "train", ("a",), lockstep=lockstep)), training

    return begin


Begin = Callable[..., tuple[Session, Training]]


def test_epochs_come_one_by_one_and_then_the_end(begin: Begin) -> None:
    session, _ = begin()
    assert [session.next().get("epoch") for _ in range(EPOCHS)] == [1, 2, 3]
    assert session.next() == {"state": "complete", "metrics": {"a": 1.0}, "epochs": 3, "error": ""}
    session.close()


def test_in_lockstep_no_step_is_done_before_the_decision(begin: Begin) -> None:
    session, training = begin(lockstep=True)
    for epoch in range(1, EPOCHS):
        assert session.next()["epoch"] == epoch
        assert not training.reaches(STEPS * epoch + 1, 0.1)
    session.close()
    assert training.steps == STEPS * (EPOCHS - 1)


def test_without_lockstep_it_goes_on_while_others_decide(begin: Begin) -> None:
    session, training = begin()
    session.next()
    assert training.reaches(STEPS * EPOCHS, 5)
    session.close()


def test_what_was_trained_before_a_kill_is_told_again(tmp_path: Path) -> None:
    record = tmp_path / "metrics.jsonl"
    lines = [
        *('{"kind": "train", "step": 2, "epoch": 0, "loss": 1}', '{"kind": "val", "step": 2, "epoch": 0, "a": 0.5}'),
        *('{"kind": "val", "step": 4, "epoch": 1, "a": 0.6}', '{"kind": "val", "step": 6, "epoch": 2, "a": 0.7}'),
        '{"kind": "val", "step": 8, "ep',
    ]
    record.write_text("\n".join(lines))
    told: list[tuple[int, Any]] = []
    Watch(lambda epoch, metrics: told.append((epoch, metrics)), threading.Event()).recall(record, 4)
    assert told == [(1, {"a": 0.5}), (2, {"a": 0.6})]
    lockstep = watch_of(
        Order("", "", 0, {}, "train", ("a",), lockstep=True), lambda *_: told.clear(), threading.Event()
    )
    lockstep.recall(record, 4)
    assert len(told) == 2


def test_a_loss_that_is_not_finite_is_told_as_such(begin: Begin) -> None:
    session, _ = begin(error=NonFiniteLossError("NaN at step 3"))
    reports = [session.next() for _ in range(EPOCHS + 1)]
    assert reports[-1]["state"] == "nonfinite"
    assert reports[-1]["error"] == "NaN at step 3"
    session.close()


def test_a_bad_setting_fails_the_trial_and_a_broken_machine_the_worker(begin: Begin) -> None:
    session, _ = begin(error=RuntimeError("shapes do not fit"))
    assert [session.next() for _ in range(EPOCHS + 1)][-1]["error"] == "RuntimeError: shapes do not fit"
    session, _ = begin(error=MemoryError())
    for _ in range(EPOCHS):
        session.next()
    with pytest.raises(MemoryError):
        session.next()
