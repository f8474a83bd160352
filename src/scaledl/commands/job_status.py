"""How a verb that runs once in a batch job tells the batch script where it stands, as a training's ranks do."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from scaledl.distributed.status import RankStatus, status_of_exit, write_status
from scaledl.errors import ScaledlError

FOLDER_VARIABLE = "SCALEDL_STATUS_DIR"


@contextmanager
def job_status() -> Iterator[Callable[[int], None]]:
    """Gives a function to call with the number of finished pieces of work; writes nothing outside a batch job."""
    folder, job = os.environ.get(FOLDER_VARIABLE), os.environ.get("SLURM_JOB_ID")
    if not folder or not job:
        yield lambda done: None
        return
    restart = os.environ.get("SLURM_RESTART_COUNT") or "0"
    status = RankStatus(f"slurm-{job}.batch-r{restart}", "running", host=socket.gethostname(), pid=os.getpid())
    begun = False

    def tell(done: int) -> None:
        nonlocal status, begun
        if begun and done == status.step:
            return
        status = replace(status, step=done, start_step=status.start_step if begun else done)
        begun = True
        write_status(Path(folder), status)

    code, message = 1, "it ended without a word"
    try:
        yield tell
        code, message = 0, ""
    except ScaledlError as error:
        code, message = error.exit_code, str(error)
        raise
    except KeyboardInterrupt:
        code, message = 130, "interrupted"
        raise
    finally:
        write_status(Path(folder), replace(status, status=status_of_exit(code), exit=code, message=message))
