"""Two ranks over gloo on this machine, as processes of the script that measures them."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from scaledl.console import get_console
from scaledl.distributed.environment import ClusterSpec
from scaledl.distributed.local import free_port
from scaledl.distributed.ranks import Ranks, join

RANKS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--rank` and `--port`: what `run` tells a rank."""
    for name in ("--rank", "--port"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)


def meet(rank: int, port: int) -> Ranks:
    """In a rank: both of them, with one thread each."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    get_console().configure(quiet=True)
    spec = ClusterSpec("env", rank, rank, 0, RANKS, RANKS, 1, (), "127.0.0.1", port, "bench", None, 0)
    store = distributed.TCPStore("127.0.0.1", port, RANKS, rank == 0, timedelta(seconds=60))
    return join(spec, store, backend="gloo", device=None, timeout_seconds=120)


def tell(result: Any) -> None:
    """In a rank: what `run` gives back of it."""
    print("RESULT " + json.dumps(result))


def run(*arguments: str) -> list[Any]:
    """Start this script as both ranks, and return what each told; None of one that told nothing."""
    command = [sys.executable, sys.argv[0], *arguments, "--port", str(free_port())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([*command, "--rank", str(rank)], env=environment, stdout=subprocess.PIPE, text=True)
        for rank in range(RANKS)
    ]
    outputs = [process.communicate()[0] for process in processes]
    assert not any(process.returncode for process in processes), outputs
    told = [[line for line in output.splitlines() if line.startswith("RESULT ")] for output in outputs]
    return [json.loads(lines[0].removeprefix("RESULT ")) if lines else None for lines in told]
