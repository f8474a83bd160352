"""`python -m scaledl.commands.trial_ranks ORDER.json`: a trial of a search as several ranks of this machine."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scaledl.commands.ranks import joined
from scaledl.config import Config
from scaledl.console import get_console
from scaledl.distributed.preemption import stop_flag
from scaledl.errors import Interrupted, Preempted, ScaledlError

if TYPE_CHECKING:
    from scaledl.tune.trial import Order


def main(argv: Sequence[str]) -> int:
    """As one process it starts the ranks; as rank 0 it does the trial and writes reports for the search's worker."""
    from scaledl.tune.trial import Order

    stop_flag.install()
    order = Order.from_json(Path(argv[0]).read_text(encoding="utf-8"))
    config = Config.model_validate(order.config)
    if "RANK" not in os.environ:
        from scaledl.distributed.local import launch

        return launch([sys.executable, "-P", "-m", "scaledl.commands.trial_ranks", *argv], order.ranks)
    try:
        with joined(config):
            _work(order)
    except ScaledlError as error:
        if not error.told:
            get_console().error(str(error))
        return error.exit_code
    return 0


def _work(order: Order) -> None:
    from scaledl.distributed.ranks import LostRanks
    from scaledl.tune.objective import open_run, work
    from scaledl.tune.ranks import write_report
    from scaledl.tune.trial import outcome_of, watch_of

    run = open_run(order)
    epochs = 0

    def tell(epoch: int, metrics: object) -> None:
        nonlocal epochs
        epochs = epoch
        write_report(run, {"epoch": epoch, "metrics": metrics})

    try:
        metrics = work(order, run, watch_of(order, tell, threading.Event()))
    except (Preempted, Interrupted, LostRanks):
        raise  # no report: another attempt may mend it
    except ScaledlError as error:
        write_report(run, outcome_of(error, epochs))
        raise
    write_report(run, {"state": "complete", "metrics": metrics, "epochs": epochs, "error": ""})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
