"""One trial in a worker: a training in a thread, whose epochs are handed out one by one and which can be ended."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from scaledl.errors import ScaledlError
from scaledl.run import Run
from scaledl.tasks.base import NonFiniteLossError
from scaledl.tune.ranks import RanksDied, work_on_ranks
from scaledl.tune.records import epochs_until

Report = dict[str, Any]
Tell = Callable[[int, Mapping[str, float]], None]
LOG = "log.txt"


@dataclass(frozen=True)
class Order:
    """What a worker is told: which trial of which search, and how closely it is watched.

    `lockstep`: wait after every epoch for the decision, where somebody else may go on from its checkpoint.
    """

    search: str
    folder: str
    number: int
    config: dict[str, Any]
    verb: str
    objectives: tuple[str, ...]
    source: str = ""
    parent: str = ""
    lockstep: bool = False
    threads: int = 1
    ranks: int = 1

    def to_json(self) -> str:
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str) -> Order:
        values = json.loads(text)
        return cls(**{**values, "objectives": tuple(values["objectives"])})


class Ended(Exception):
    """The trial is not wanted any more."""


class Session:
    """Runs one trial. `next` waits for its next epoch or its end; `close` ends it at the next step."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self._reports: queue.Queue[Report | BaseException] = queue.Queue()
        self._over = threading.Event()
        self._go = threading.Semaphore(0)
        self._given = False
        self._thread = threading.Thread(target=self._run, name=f"trial-{order.number}", daemon=True)
        self._thread.start()

    def next(self) -> Report:
        """{"epoch": n, "metrics": {…}}, or at the end {"state": …, "metrics": {…}, "epochs": n, "error": …}.

        Raises what is no fault of the trial's settings: memory, the machine.
        """
        if self._given:  # that the next one is asked for is the decision to go on
            self._go.release()
        report = self._reports.get()
        self._given = True
        if isinstance(report, BaseException):
            raise report
        return report

    def close(self) -> None:
        """End it, and wait until its files are written."""
        self._over.set()
        self._go.release()
        self._thread.join()

    def _run(self) -> None:
        try:
            report = self._worked()
        except Ended:
            return
        except BaseException as error:
            self._reports.put(error)
        else:
            self._reports.put(report)

    def _worked(self) -> Report:
        from scaledl.tune.objective import open_run, work

        run = open_run(self.order)
        epochs = 0

        def tell(epoch: int, metrics: Mapping[str, float]) -> None:
            nonlocal epochs
            epochs = epoch
            self._reports.put({"epoch": epoch, "metrics": dict(metrics)})

        try:
            with _own_log(run.path / LOG):
                if self.order.ranks > 1:
                    return self._on_ranks(run, tell)
                metrics = work(self.order, run, watch_of(self.order, tell, self._over, self._go))
        except ScaledlError as error:
            return outcome_of(error, epochs)
        except (Ended, MemoryError, OSError, RanksDied):
            raise  # not wanted any more; or of the machine, and worth another try
        except Exception as error:
            if "out of memory" in str(error).lower():
                raise
            return outcome_of(error, epochs)
        return {"state": "complete", "metrics": metrics, "epochs": epochs, "error": ""}

    def _on_ranks(self, run: Run, tell: Tell) -> Report:
        report = work_on_ranks(self.order.to_json(), run, tell, self._over, self.order.threads)
        if report is None:
            raise Ended
        return report


def outcome_of(error: Exception, epochs: int) -> Report:
    """How a trial ended that its own settings ended."""
    nonfinite = isinstance(error, NonFiniteLossError)
    text = str(error) if isinstance(error, ScaledlError) else f"{type(error).__name__}: {error}"
    return {"state": "nonfinite" if nonfinite else "failed", "metrics": {}, "epochs": epochs, "error": text}


class Watch(pl.Callback):
    """Tells of every epoch, and ends the training between two steps.

    With `go` it waits after each for the decision. `recalls`: what was trained before this start may be told again.
    """

    def __init__(
        self, tell: Tell, over: threading.Event, go: threading.Semaphore | None = None, *, recalls: bool = True
    ) -> None:
        self._tell, self._over, self._go, self._recalls = tell, over, go, recalls
        self._told = False

    def recall(self, record: Path, step: int) -> None:
        """Tell of the epochs in a run's metrics up to this step: of some the search may not have heard."""
        for epoch, metrics in epochs_until(record, step) if self._recalls else ():
            self._tell(epoch, metrics)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._tell(trainer.current_epoch + 1, pl_module.val_metrics)
        self._told = True

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._told and self._go is not None:
            self._go.acquire()  # by now the epoch's checkpoint is on its way
        self._told = False
        if self._over.is_set():
            raise Ended


def watch_of(order: Order, tell: Tell, over: threading.Event, go: threading.Semaphore | None = None) -> Watch:
    """In lockstep every epoch was answered; what another trial has trained is not told as one's own."""
    return Watch(tell, over, go if order.lockstep else None, recalls=not (order.lockstep or order.parent))


@contextmanager
def _own_log(path: Path) -> Iterator[None]:
    """What the trial says goes into a file of its folder."""
    with path.open("a", encoding="utf-8", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        yield
