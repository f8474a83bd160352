"""Stop signals while a stage calibrates, exports or measures: nothing swallows them, nothing is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scaledl.run import Run

pytestmark = pytest.mark.integration

CONFIG = """\
data: {source: digits, batch_size: 256}
model: {family: mlp, hidden: [32]}
trainer: {epochs: 1, num_threads: 1, precision: fp32}
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "scaledl.cli", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_before_a_stage_trains_is_not_swallowed(tmp_path: Path, signum: signal.Signals, code: int) -> None:
    (tmp_path / "t.yaml").write_text(CONFIG)
    out, err = (process := start(tmp_path, "train", "t.yaml", "--id", "x")).communicate(timeout=240)
    assert process.returncode == 0, err
    process = start(tmp_path, "compress", "t/x", "--method", "ptq", "--id", "small")
    deadline = time.monotonic() + 120
    while not (tmp_path / "runs/t/small").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signum)
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, out + err
    assert f"stopped by {signum.name}" in err
    assert "Traceback" not in err
    assert Run.open(tmp_path / "runs/t/small").state == "preempted"
    again = start(tmp_path, "compress", "t/x", "--method", "ptq", "--id", "small")
    out, err = again.communicate(timeout=240)
    assert again.returncode == 0, err
    assert Run.open(tmp_path / "runs/t/small").state == "complete"
