"""Quantization-aware training under DeepSpeed: building looks at values, and observers are shared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.integration.conftest import run_command

pytestmark = pytest.mark.integration
CONFIG = """\
data: {source: digits, batch_size: 256}
model: {family: resnet, depth: 8, width: 4}
trainer: {epochs: 12, num_threads: 1, precision: fp32}
optimizer: {lr: 0.01}
"""


@pytest.mark.parametrize("stage", [2, 3])
def test_it_is_trained_stopped_and_gone_on_with(stage: int, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG)
    trained = run_command(tmp_path, "train", "c.yaml", "run.id=one")
    assert trained.code == 0, trained.err
    zero = ["trainer.strategy=deepspeed", f"trainer.deepspeed.stage={stage}", "trainer.checkpoint_every_n_steps=1"]
    recipe = "compress.stages=[{method: qat, epochs: 6}]"
    words = ["compress", "runs/c/one", recipe, *zero]
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("scaledl")), *words],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/*/*/stages/*/checkpoints/step-0000000[3-9].json")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75, process.communicate()[1]
    process.communicate()
    done = run_command(tmp_path, *words)
    assert done.code == 0, done.err
    assert "resumed from epoch" in done.out
    [table] = tmp_path.glob("runs/*/latest/table.json")
    rows = {row["name"]: row["accuracy"] for row in json.loads(table.read_text())["rows"]}
    start, trained = rows["start"], next(value for name, value in rows.items() if "qat" in name)
    assert start > 0.8
    assert trained > start - 0.03
