"""torchrun with the ranks' exit code instead of a traceback: `python -m scaledl.launch.torchrun OPTIONS COMMAND ...`

Takes torchrun's options; `--nproc-per-node=devices` means all GPUs, else one rank.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

_LOG_LEVEL = "LOGLEVEL"


def main(argv: Sequence[str]) -> int:
    _silence()
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    args = run.parse_args(argv)
    if args.nproc_per_node == "devices":
        args.nproc_per_node = str(_num_devices())
    _share_cpus(args.nproc_per_node)
    try:
        run.run(args)
    except ChildFailedError as error:
        by_time = sorted(error.failures.values(), key=lambda failure: failure.timestamp)
        return exit_code([failure.exitcode for failure in by_time])
    except SignalException as stop:
        return 128 + stop.sigval
    except Exception as error:
        sys.stderr.write(f"error: torchrun: {type(error).__name__}: {error}\n")
        return 1
    return 0


def _silence() -> None:
    """The ranks say what went wrong. Half of the loggers take their level from LOGLEVEL, half from above.

    A node that is done sooner than another closes its store, which C++ tells with a stack.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if _LOG_LEVEL in os.environ:
        return
    os.environ[_LOG_LEVEL] = "CRITICAL"
    try:
        from torch.distributed import run  # noqa: F401
    finally:
        del os.environ[_LOG_LEVEL]  # not for the ranks
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)


def exit_code(codes: Sequence[int]) -> int:
    """That of the first rank that failed; a killed one as a shell shows it.

    >>> exit_code([75, 1]), exit_code([-9, 1])
    (75, 137)
    """
    first = codes[0]
    return 128 - first if first < 0 else first


def _num_devices() -> int:
    import torch

    return torch.cuda.device_count() or 1


def _share_cpus(num_ranks: str) -> None:
    """torchrun would give each rank one thread, and say so in a frame of stars."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if num_ranks.isdecimal() and int(num_ranks):
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cpus // int(num_ranks))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
