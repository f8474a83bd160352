"""What rank 0 of a trial on several ranks tells the worker that waits for it."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scaledl.commands import trial_ranks
from scaledl.commands.trial_ranks import main
from scaledl.config import Config
from scaledl.distributed.ranks import LostRanks
from scaledl.errors import Preempted, ScaledlError
from scaledl.tune import objective
from scaledl.tune.ranks import ORDER, REPORTS
from scaledl.tune.trial import Order

pytestmark = pytest.mark.unit


def reports_of(folder: Path, monkeypatch: pytest.MonkeyPatch, error: ScaledlError) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and reports of a trial whose work ends with `error`."""

    def work(order: Order, run: Any, watch: Any) -> dict[str, float]:
        raise error

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(trial_ranks.stop_flag, "install", lambda: None)
    monkeypatch.setattr(trial_ranks, "joined", lambda config: nullcontext())
    monkeypatch.setattr(objective, "open_run", lambda order: SimpleNamespace(path=folder))
    monkeypatch.setattr(objective, "work", work)
    order = Order("", "", 0, Config().model_dump(mode="json"), "train", ("val_accuracy",), ranks=2)
    (folder / ORDER).write_text(order.to_json())
    code = main([str(folder / ORDER)])
    path = folder / REPORTS
    return code, [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_its_own_failure_is_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, reports = reports_of(tmp_path, monkeypatch, ScaledlError("the model is bad"))
    assert code == 1
    assert [(report["state"], report["error"]) for report in reports] == [("failed", "the model is bad")]


@pytest.mark.parametrize("error", [LostRanks("the connection to rank 1 broke"), Preempted("SIGTERM")])
def test_what_another_attempt_may_mend_is_not_reported_as_its_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: ScaledlError
) -> None:
    code, reports = reports_of(tmp_path, monkeypatch, error)
    assert code == error.exit_code
    assert reports == []
