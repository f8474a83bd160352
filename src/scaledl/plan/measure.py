"""A rank's measurements, each taken in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaledl.config import Config, replace
from scaledl.distributed.parent import dying_with
from scaledl.errors import ScaledlError, UsageError
from scaledl.plan.layout import Layout, micro_batch, num_threads

# What would make the trial one of several ranks, or a task of a job.
_LAUNCHERS = ("SLURM_", "TORCHELASTIC_", "PET_", "RAY_", "PMI_", "SCALEDL_")
_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Trial:
    """What decides a rank's measurements. `micro_batch`, `eval_batch`: samples. `stage`: of ZeRO, which may offload."""

    micro_batch: int
    eval_batch: int
    num_threads: int
    precision: str
    stage: int = 0
    offload_optimizer: bool = False
    offload_parameters: bool = False

    def __str__(self) -> str:
        """
        >>> str(Trial(32, 256, 1, "auto", 3)), str(Trial(32, 256, 2, "auto"))
        ('32 samples, 1 thread, ZeRO-3', '32 samples, 2 threads')
        """
        threads = f"{self.num_threads} thread{'s' if self.num_threads > 1 else ''}"
        return f"{self.micro_batch} samples, {threads}" + (f", ZeRO-{self.stage}" if self.stage else "")


@dataclass(frozen=True)
class Measured:
    """One rank on this machine, in bytes and seconds.

    `process_bytes`: all imports, before any data. `data_bytes`: what loading the data adds for good. `host_peaks`,
    `gpu_peaks`: by phase, in the order load, start, train, validate, save, finish, exit; the latter where there is one.
    `seconds`: start (to the first step), step (median), validate (the whole split), finish (the test split).
    `largest_bytes`: of one parameter.
    """

    gpu: bool
    device: str
    precision: str
    parameters: int
    parameter_bytes: int
    trainable_bytes: int
    largest_bytes: int
    buffer_bytes: int
    samples: dict[str, int]
    process_bytes: int
    data_bytes: int
    host_peaks: dict[str, int]
    gpu_peaks: dict[str, int]
    seconds: dict[str, float]


def trial_of(config: Config, layout: Layout, *, gpu: bool) -> Trial:
    """The trial whose figures this layout needs."""
    precision = "fp32" if layout.stage and not gpu else config.trainer.precision  # ZeRO on CPUs trains in fp32
    return Trial(
        micro_batch=micro_batch(config, layout),
        eval_batch=-(-config.data.eval_batch_size // layout.world_size),
        num_threads=num_threads(config, layout),
        precision=precision,
        stage=layout.stage,
        offload_optimizer=layout.offload_optimizer,
        offload_parameters=layout.offload_parameters,
    )


def measure(config: Config, trial: Trial) -> Measured:
    """Run the trial. Raises UsageError where `scaledl train` would, ScaledlError when it fails otherwise."""
    with tempfile.TemporaryDirectory(prefix="scaledl-plan-") as name:
        folder = Path(name)
        request = {
            "config": _rank_config(config, trial, folder).model_dump(mode="json"),
            "eval_batch_size": config.data.eval_batch_size,
        }
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        return Measured(**_run(folder))


def _rank_config(config: Config, trial: Trial, folder: Path) -> Config:
    """One process with the share of one rank."""
    changes: dict[str, Any] = {
        "run.root": str(folder / "runs"),
        "data.batch_size": trial.micro_batch * config.trainer.accumulate,
        "data.eval_batch_size": trial.eval_batch,
        "trainer.num_threads": trial.num_threads,
        "trainer.precision": trial.precision,
        "trainer.strategy": "deepspeed" if trial.stage else "auto",
        "trainer.deepspeed.stage": trial.stage or 1,
        "trainer.deepspeed.offload_optimizer": trial.offload_optimizer,
        "trainer.deepspeed.offload_parameters": trial.offload_parameters,
        "trainer.devices": "auto",
        "trainer.num_nodes": "auto",
        "trainer.sync_batchnorm": False,
        "trainer.max_steps": None,
        "trainer.checkpoint_every_n_steps": None,
        "trainer.early_stopping_patience": None,
    }
    return replace(config, changes)


def _run(folder: Path) -> dict[str, Any]:
    result, errors = folder / "result.json", folder / "stderr"
    command = [sys.executable, "-P", "-m", "scaledl.plan._rank", str(folder / "request.json"), str(result)]
    code, exit_peak = _waited(command, errors)
    if code or not result.exists():
        raise ScaledlError(f"the trial of one rank {_ending(code, errors.read_text(errors='replace'))}")
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    if "error" in found:
        raise (UsageError if found["exit_code"] == 2 else ScaledlError)(found["error"])
    found["host_peaks"]["exit"] = exit_peak
    return found


def _waited(command: list[str], errors: Path) -> tuple[int, int]:
    """Exit code, and the peak of resident memory after the last phase: torch's libraries grow while they unload."""
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            command,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            preexec_fn=dying_with(os.getpid()),
        )
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss * 1024


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHERS)}
    return {name: value for name, value in kept.items() if name not in _RANK_VARIABLES}


def _ending(code: int, stderr: str) -> str:
    """What a failed process left to say."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    last = lines[-1][:500] if lines else "no message"
    if code == -9:
        return f"was killed, perhaps because it does not fit into memory ({last})"
    return f"failed ({'signal' if code < 0 else 'exit code'} {abs(code)}): {last}"
