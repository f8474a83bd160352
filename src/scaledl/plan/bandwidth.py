"""How fast ranks exchange gradients: given, measured on this machine, or assumed, and which of these."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from scaledl.distributed.parent import dying_with
from scaledl.errors import ScaledlError
from scaledl.plan.layout import Layout

NETWORK_BYTES_A_SECOND = 1.25e9  # 10 Gbit/s Ethernet
GPU_BYTES_A_SECOND = 12e9  # PCIe 4.0 x16, about half of what it can do
_SIZES = (1 << 16, 64 << 20)


@dataclass(frozen=True)
class Bandwidth:
    """Bytes a second, and where the figure comes from."""

    value: float
    source: str


def bandwidth(layout: Layout, given: float | None, *, gpu: bool, num_bytes: int) -> Bandwidth | None:
    """Between the ranks of this layout; None for one rank. `num_bytes`: how much is exchanged at once."""
    if layout.world_size == 1:
        return None
    if given is not None:
        return Bandwidth(given, "given")
    if layout.num_nodes > 1:
        return Bandwidth(NETWORK_BYTES_A_SECOND, "assumed: 10 Gbit/s Ethernet between nodes; --bandwidth sets it")
    if gpu:
        return Bandwidth(GPU_BYTES_A_SECOND, "assumed: PCIe 4.0 between GPUs of a node; --bandwidth sets it")
    size = min(max(num_bytes, _SIZES[0]), _SIZES[1])
    return Bandwidth(_between_processes(size), "measured: all-reduce of two processes on this machine over gloo")


@cache
def _between_processes(size: int) -> float:
    environment = {"GLOO_SOCKET_IFNAME": "lo", **os.environ}
    with tempfile.TemporaryDirectory(prefix="scaledl-plan-") as name:
        store = str(Path(name) / "store")
        ranks = [
            subprocess.Popen(
                [sys.executable, "-P", "-m", "scaledl.plan._exchange", str(rank), store, str(size)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=dying_with(os.getpid()),
            )
            for rank in range(2)
        ]
        try:
            output, errors = ranks[0].communicate(timeout=120)
            ranks[1].communicate(timeout=60)
        except subprocess.TimeoutExpired:
            raise ScaledlError("two processes on this machine did not exchange anything within 120 s") from None
        finally:
            for rank in ranks:
                rank.kill()
                rank.communicate()
    if ranks[0].returncode:
        last = (errors.strip().splitlines() or ["no message"])[-1]
        raise ScaledlError(f"two processes on this machine cannot exchange data: {last}; give --bandwidth GB/s")
    return float(output)
