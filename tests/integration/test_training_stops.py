"""A chain that is stopped between and inside its stages, and a compiled model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from scaledl.checkpoint import newest_verified, read_checkpoint
from scaledl.models.structure import load_model
from scaledl.run import sha256_file

pytestmark = pytest.mark.integration

COMMAND = ("chain", "tiny.yaml", "--id", "first")


def run_command(folder: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "scaledl.cli", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def stop_when(folder: Path, pattern: str, word: str) -> tuple[int, str]:
    """Start the chain and send SIGTERM as soon as a file of this pattern contains the word."""
    command = [sys.executable, "-m", "scaledl.cli", *COMMAND]
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if any(word in path.read_text() for path in folder.glob(pattern)):
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.002)
    text = process.communicate(timeout=240)[0]
    assert "Traceback" not in text, text
    return process.returncode, text


def weights(folder: Path) -> list[str]:
    found = sorted((folder / "runs").rglob("weights.safetensors"))
    return [f"{path.parent.parent.name} {sha256_file(path)}" for path in found]


def test_a_chain_stopped_between_stages_ends_with_the_same_bits(empty: Path, chained: Any) -> None:
    code, text = stop_when(empty, "runs/tiny/*/stages/01-distill/manifest.json", '"complete"')
    assert code == 75, text
    assert "To go on: " in text
    code, text = run_command(empty, *COMMAND)
    assert code == 0, text
    assert "runs/tiny/first: already complete" in text
    assert "stage 1 distill: already complete" in text
    assert weights(empty) == weights(chained.folder)


def test_a_compiled_model_trains_and_its_files_are_those_of_any_other(tmp_path: Path) -> None:
    config = {
        "data": {"source": "digits", "batch_size": 256},
        "model": {"family": "mlp", "hidden": [16]},
        "trainer": {"epochs": 3, "precision": "fp32", "num_threads": 1},
        "optimizer": {"lr": 0.01},
    }
    (tmp_path / "mlp.yaml").write_text(json.dumps(config))
    cache = str(tmp_path / "inductor")
    arguments = ("train", "mlp.yaml", "--id", "x", "trainer.compile=true")
    code, text = run_command(tmp_path, *arguments, TORCHINDUCTOR_CACHE_DIR=cache)
    assert code == 0, text
    run = tmp_path / "runs/mlp/x"
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    validations = [record["val_loss"] for record in records if record["kind"] == "val"]
    assert validations[-1] < 0.95 * validations[0]
    names = set(load_model(run / "model").module.state_dict())
    newest = newest_verified(run / "checkpoints")
    assert newest is not None
    assert set(read_checkpoint(newest[0])["state_dict"]) == {f"model.{name}" for name in names}
    assert any((tmp_path / "inductor").rglob("*.py")), "nothing was compiled"
