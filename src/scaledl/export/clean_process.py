"""Run an artifact in a process of its own that knows torch but not scaledl."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scaledl.config.schema import ExportConfig
from scaledl.errors import ScaledlError

SCRIPT = Path(__file__).with_name("_verify_child.py")
BATCH_SIZES = (1, 3, 32)
LATENCY_SECONDS = 0.3


class CleanProcessFailed(ScaledlError):
    """The process crashed, ran out of time or could not use the file."""


@dataclass(frozen=True, eq=False)
class Observation:
    """What came back: `report` as JSON, `outputs` by name: cases, singles, batch_N, test."""

    report: dict[str, Any]
    outputs: dict[str, Tensor]


def observe(path: Path, sha256: str, inputs: Tensor | None, config: ExportConfig, timeout: float) -> Observation:
    """Load and run the file `path` in a clean process.

    Args:
        sha256: the hash that was checked; the process refuses other bytes.
        inputs: of the test split, raw, or None.
        timeout: seconds until the process is ended.

    Raises:
        CleanProcessFailed: with the reason.
    """
    with tempfile.TemporaryDirectory(prefix="scaledl-verify-") as name:
        folder = Path(name)
        request = {
            "artifact": str(path.absolute()),
            "sha256": sha256,
            "threads": torch.get_num_threads(),
            "batch_sizes": BATCH_SIZES,
            "latency_batch_sizes": config.latency_batch_sizes,
            "latency_threads": config.latency_threads,
            "latency_seconds": LATENCY_SECONDS,
        }
        (folder / "request.json").write_text(json.dumps(request))
        if inputs is not None:
            save_file({"inputs": inputs.contiguous()}, folder / "inputs.safetensors")
        _run(folder, timeout)
        return Observation(json.loads((folder / "report.json").read_text()), load_file(folder / "outputs.safetensors"))


def _run(folder: Path, timeout: float) -> None:
    """`-I` keeps PYTHONPATH, the working directory and the user's site-packages out."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(SCRIPT), str(folder)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CleanProcessFailed(f"it did not finish within {timeout:.0f} s and was ended") from None
    if done.returncode:
        raise CleanProcessFailed(_reason(done.returncode, done.stderr))


def _reason(code: int, stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    last = lines[-1][:500] if lines else "no message"
    if code < 0:
        return f"it crashed with {_signal_name(-code)} ({last})"
    return f"it failed: {last}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
