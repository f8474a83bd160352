"""Machines for a search that train nothing: a trial's curve is a formula, its checkpoint a number in a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scaledl.config import Config, replace, space_of
from scaledl.run import Run
from scaledl.tune.search import Assignment, Decision, NoMore, Outcome, Search
from scaledl.tune.study import Study

EPOCHS = 9
LR = {"optimizer.lr": {"loguniform": [1e-4, 1e-1]}}
Metrics = Mapping[str, float]


def search_config(folder: Path, space: dict[str, Any] | None = None, **tune: Any) -> Config:
    changes = {"run.root": str(folder), "run.name": "s", "run.id": "x", "trainer.epochs": EPOCHS}
    return replace(
        Config(),
        {"tune.space": LR if space is None else space, **changes, **{f"tune.{k}": v for k, v in tune.items()}},
    )


def open_search_of(config: Config, count: int | None = None) -> Search:
    """As after a start of the command: what is on the disk is gone on with."""
    run = Run.open_or_create(config.run.root, "s", "x", kind="tune", config=config)
    space = space_of(config)
    return Search(run, config, space, Study(run.path, config, space), config.tune.trials if count is None else count)


def quality(config: Config) -> float:
    """Best, 0, at lr 10**-2.5."""
    return -abs(math.log10(config.optimizer.lr) + 2.5)


def curve(config: Config, epoch: int) -> Metrics:
    """Curves that never cross."""
    accuracy = 0.5 + 0.1 * quality(config) + 0.4 * (1 - math.exp(-epoch / 3))
    return {"val_accuracy": accuracy, "val_loss": 1 - accuracy}


class Killed(Exception):
    """The driver is gone, in the middle of something."""


class Executor:
    """So many slots; every event is one call of the search, and `events` of them may happen."""

    def __init__(
        self,
        search: Search,
        slots: int = 1,
        *,
        events: int | None = None,
        metrics_fn: Callable[[Config, int], Metrics] = curve,
    ) -> None:
        self.search, self.slots, self.left, self.metrics_fn = search, slots, events, metrics_fn
        self.running: dict[int, Assignment] = {}
        self.most_running: dict[int, int] = {}  # epoch -> how many trials ran beside one that had got there

    def run(self) -> Search:
        while self._fill() or self.running:
            assert self.running, "nothing runs, and the search gives nothing to do"
            number = next(iter(self.running))
            self._epoch(number, self.running.pop(number))
        return self.search

    def _count(self) -> None:
        if self.left == 0:
            raise Killed
        if self.left is not None:
            self.left -= 1

    def _fill(self) -> bool:
        """Whether more may come."""
        while len(self.running) < self.slots:
            self._count()
            try:
                assignment = self.search.next()
            except NoMore:
                return False
            if assignment is None:
                return True
            assert assignment.number not in self.running
            self.running[assignment.number] = assignment
            self._start(assignment)
        return True

    def _folder(self, number: int) -> Path:
        return self.search.run.path / f"trials/{number:04d}"

    def _start(self, assignment: Assignment) -> None:
        checkpoint = self._folder(assignment.number) / "checkpoints/epoch"
        if not checkpoint.exists():
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            first = "0" if assignment.parent is None else self._checkpoint(assignment.parent).read_text()
            checkpoint.write_text(first)
        self.search.started(assignment.number, "here")

    def _checkpoint(self, number: int) -> Path:
        return self._folder(number) / "checkpoints/epoch"

    def _epoch(self, number: int, assignment: Assignment) -> None:
        checkpoint, total = self._checkpoint(number), assignment.config.trainer.epochs
        epoch = min(int(checkpoint.read_text()) + 1, total)
        metrics = self.metrics_fn(assignment.config, epoch)
        self.most_running[epoch] = max(self.most_running.get(epoch, 0), len(self.running) + 1)
        self._count()
        decision = self.search.report(number, epoch, metrics)
        self._count()
        if decision is Decision.STOP:
            return
        checkpoint.write_text(str(epoch))
        if decision is Decision.PAUSE:
            return
        if epoch < total:
            self.running[number] = assignment
            return
        (self._folder(number) / "model").mkdir(exist_ok=True)
        self._count()
        self.search.end(number, Outcome("complete", metrics, epoch))
