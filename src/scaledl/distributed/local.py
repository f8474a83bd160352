"""Several ranks on this machine, without any launcher: the command starts itself and guards them all."""

from __future__ import annotations

import os
import random
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from scaledl.distributed.guardian import CAUGHT, Guardian, status_folder
from scaledl.distributed.link import LINK_VARIABLE, open_pipe
from scaledl.distributed.parent import dying_with
from scaledl.distributed.preemption import stop_flag
from scaledl.distributed.signals import CaughtSignals
from scaledl.distributed.status import RankStatus
from scaledl.distributed.ward import Ward
from scaledl.errors import ScaledlError
from scaledl.run.machine import num_cpus

PROGRAM_VARIABLE = "SCALEDL_PROGRAM"
HOST = "127.0.0.1"
_PORTS = range(20_000, 32_768)  # below those that outgoing connections take by themselves


def launch_local(num_ranks: int, argv: Sequence[str]) -> int:
    """Run `scaledl ARGV` as this many ranks, until all have ended; returns the exit code that stands for them."""
    os.environ[PROGRAM_VARIABLE] = sys.argv[0]
    try:
        return launch([sys.executable, "-P", "-m", "scaledl", *argv], num_ranks)
    finally:
        del os.environ[PROGRAM_VARIABLE]


def launch(command: Sequence[str], num_ranks: int) -> int:
    """Run any command as ranks. Raises ScaledlError when a process cannot be started."""
    shared = _shared_environment(num_ranks)
    wards: list[Ward] = []
    with CaughtSignals(CAUGHT) as signals:
        stop_flag.raise_if_set("nothing had begun")
        try:
            for rank in range(num_ranks):
                wards.append(_start(command, rank, shared))
            return Guardian(wards, num_ranks, status_folder()).run(signals)
        finally:
            for ward in wards:
                _make_sure(ward)


def _start(command: Sequence[str], rank: int, shared: dict[str, str]) -> Ward:
    reader, writer = open_pipe()
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank), LINK_VARIABLE: str(writer)}
    try:
        process = subprocess.Popen(
            command, env={**os.environ, **shared, **own}, pass_fds=[writer], preexec_fn=dying_with(os.getpid())
        )
    except OSError as error:
        os.close(reader)
        raise ScaledlError(f"rank {rank} could not be started: {error.strerror}") from error
    finally:
        os.close(writer)
    status = RankStatus(shared["SCALEDL_LAUNCH_ID"], "starting", rank=rank, host=socket.gethostname(), pid=process.pid)
    return Ward(status, reader, process.poll)


def _make_sure(ward: Ward) -> None:
    """Nothing is left of it, also when something went wrong here."""
    ward.end()
    while not ward.ended and not ward.reap():
        time.sleep(0.01)


def _shared_environment(num_ranks: int) -> dict[str, str]:
    """What a launcher sets, for every rank."""
    threads = max(1, num_cpus() // num_ranks)
    return {
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "GROUP_RANK": "0",
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(free_port()),
        "SCALEDL_LAUNCH_ID": secrets.token_hex(8),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(threads),
    }


def free_port() -> int:
    """A port of this machine that nobody listens on, and that no outgoing connection takes before it is used."""
    for port in [*random.SystemRandom().sample(_PORTS, 20), 0]:
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ScaledlError("no free TCP port on this machine")
