"""`scaledl plan` against what the kernel saw: the peak resident size of real trainings, within 10 %."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.numerics

TOLERANCE = 0.10
# Runs a command as this rank and writes down the peak of it and its children, the rank under its guardian among them.
PEAK = """\
import os, subprocess, sys
process = subprocess.Popen(["scaledl", *sys.argv[2:]])
_, status, usage = os.wait4(process.pid, 0)
with open(f"{sys.argv[1]}/peak-{os.environ.get('RANK', '0')}", "w") as file:
    file.write(str(usage.ru_maxrss * 1024))
sys.exit(os.waitstatus_to_exitcode(status))
"""
SMALL = "data: {source: digits, batch_size: 128}\nmodel: {family: resnet, depth: 8}\n"
LARGE = "data: {source: fashion_mnist, batch_size: 256}\nmodel: {family: mlp, hidden: [4096, 4096]}\n"
TRAINER = "trainer: {epochs: 1, max_steps: 20, precision: fp32}\n"
ZERO = ["trainer.strategy=deepspeed"]


def measured_peak(folder: Path, config: Path, num_ranks: int, overrides: list[str]) -> int:
    """Of rank 0 of a real `scaledl train`."""
    (folder / "peak.py").write_text(PEAK)
    command = [sys.executable, str(folder / "peak.py"), str(folder), "train", str(config), *overrides, "--quiet"]
    if num_ranks > 1:
        ranks = ["--standalone", f"--nproc-per-node={num_ranks}", "--no-python"]
        command = [sys.executable, "-m", "scaledl.launch.torchrun", *ranks, *command]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int((folder / "peak-0").read_text())


def planned_peak(folder: Path, config: Path, num_ranks: int, overrides: list[str]) -> int:
    program = Path(sys.executable).with_name("scaledl")
    flags = ["--devices", str(num_ranks), "--bandwidth", "1", "--json"]
    command = [str(program), "plan", str(config), *overrides, *flags]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [layout] = json.loads(done.stdout)["layouts"]
    assert layout["ranks"] == num_ranks
    return int(layout["memory"]["peak"])


@pytest.mark.parametrize(
    ("model", "num_ranks", "overrides"),
    [
        (SMALL, 1, []),
        (LARGE, 1, []),
        (LARGE, 2, []),
        (LARGE, 2, [*ZERO, "trainer.deepspeed.stage=1"]),
        (LARGE, 2, [*ZERO, "trainer.deepspeed.stage=3"]),
    ],
    ids=["small", "large", "large-ddp", "large-zero1", "large-zero3"],
)
def test_plan_is_within_ten_percent_of_the_real_peak(
    model: str, num_ranks: int, overrides: list[str], tmp_path: Path
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(model + TRAINER)
    planned = planned_peak(tmp_path, config, num_ranks, overrides)
    real = measured_peak(tmp_path, config, num_ranks, overrides)
    print(f"planned {planned / 1e6:.0f} MB, real {real / 1e6:.0f} MB: {100 * (planned / real - 1):+.1f} %")
    assert planned == pytest.approx(real, rel=TOLERANCE)
