"""Training that is killed, stopped, or refused by its storage, with real processes, signals and small disks."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.integration.conftest import Trained, change_one_byte, cut_short, outcome

from scaledl.checkpoint import newest_verified, scan
from scaledl.run import Run, sha256_file

pytestmark = pytest.mark.integration

EXHAUSTIVE = os.environ.get("SCALEDL_EXHAUSTIVE") == "1"
CONFIG = """\
data: {source: digits, batch_size: 16, augment: {crop: 1}}
model: {family: mlp, hidden: [64]}
optimizer: {lr: 0.001}
trainer: {epochs: 16, precision: fp32, num_threads: 1, checkpoint_every_n_steps: 50}
"""
STOP = (signal.SIGTERM, signal.SIGINT)


def start(folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "scaledl.cli", "train", "mlp.yaml", "--id", "x", *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=240)
    assert "Traceback" not in err, err
    return process.returncode, out + err


def train(folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    return finish(start(folder, *arguments, environment=environment))


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)


def kill_after_checkpoint(folder: Path, delay: float, signum: int = signal.SIGKILL) -> tuple[int, str]:
    """Start, wait for a new checkpoint and `delay` seconds more, and send the signal."""
    process = start(folder)
    directory = folder / "runs/mlp/x/checkpoints"
    before = {path.name for path in directory.glob("step-*.ckpt")}
    wait_for(lambda: {path.name for path in directory.glob("step-*.ckpt")} - before != set(), process)
    time.sleep(delay)
    process.send_signal(signum)
    return finish(process)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "mlp.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("uninterrupted")
    (folder / "mlp.yaml").write_text(CONFIG)
    code, text = train(folder)
    assert code == 0, text
    return outcome(folder / "runs/mlp/x")


@pytest.mark.parametrize("seed", range(20 if EXHAUSTIVE else 1))
def test_killed_at_random_steps_it_ends_with_the_same_bits(place: Path, uninterrupted: Trained, seed: int) -> None:
    chance = random.Random(seed)
    codes = [kill_after_checkpoint(place, chance.uniform(0, 0.3))[0] for _ in range(3)]
    assert codes[0] == -signal.SIGKILL
    assert Run.open(place / "runs/mlp/x").state in ("killed", "complete")
    code, text = train(place)
    assert code == 0, text
    assert outcome(place / "runs/mlp/x") == uninterrupted
    code, text = train(place)
    assert code == 0
    assert "already complete" in text


@pytest.mark.parametrize("round_", range(10 if EXHAUSTIVE else 1))
def test_killed_during_saves_a_verified_checkpoint_remains(place: Path, round_: int) -> None:
    chance = random.Random(round_)
    directory = place / "runs/mlp/x/checkpoints"
    often = ("trainer.checkpoint_every_n_steps=1", "trainer.keep_last=1", "trainer.epochs=3")
    for _ in range(5 if EXHAUSTIVE else 3):
        process = start(place, *often)
        wait_for(lambda: any(directory.glob(".*.tmp")), process)
        time.sleep(chance.uniform(0, 0.005))
        process.kill()
        process.communicate()
        assert Run.open(place / "runs/mlp/x").state == "killed"
        assert newest_verified(directory) is not None or not scan(directory)
    code, text = train(place, *often)
    assert code == 0, text
    assert not list(place.rglob("*.tmp"))
    assert train(place, *often, "run.root=other")[0] == 0
    assert outcome(place / "runs/mlp/x") == outcome(place / "other/mlp/x")


@pytest.mark.parametrize("signum", STOP, ids=lambda signum: signum.name)
def test_a_signal_saves_and_the_same_command_goes_on(
    place: Path, uninterrupted: Trained, signum: signal.Signals
) -> None:
    code, text = kill_after_checkpoint(place, 0.05, signum)
    assert code == (130 if signum == signal.SIGINT else 75), text
    assert f"stopped by {signum.name}; checkpoint saved" in text
    run = Run.open(place / "runs/mlp/x")
    assert run.state == "preempted"
    step = scan(run.checkpoints)[0][1].step
    code, text = train(place)
    assert code == 0, text
    assert f"step {step} (attempt 2)" in text
    assert outcome(run.path) == uninterrupted


@pytest.mark.parametrize("delay", [0.3, 1.5])
def test_a_signal_before_the_first_step_ends_without_a_traceback(place: Path, delay: float) -> None:
    process = start(place)
    time.sleep(delay)
    process.send_signal(signal.SIGTERM)
    code, text = finish(process)
    assert code in (75, -signal.SIGTERM), text
    assert train(place, "trainer.max_steps=3")[0] in (0, 2)


def test_signals_in_a_row_make_one_stop(place: Path, uninterrupted: Trained) -> None:
    process = start(place)
    wait_for(lambda: any((place / "runs/mlp/x/checkpoints").glob("step-*.json")), process)
    for _ in range(3):
        process.send_signal(signal.SIGUSR1)
    code, text = finish(process)
    assert code == 75
    assert text.count("stopped by SIGUSR1") == 1
    assert train(place)[0] == 0
    assert outcome(place / "runs/mlp/x") == uninterrupted


@pytest.mark.parametrize("damage", [cut_short, change_one_byte])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    place: Path, uninterrupted: Trained, damage: Callable[[Path], None]
) -> None:
    kill_after_checkpoint(place, 0.3, signal.SIGTERM)
    directory = place / "runs/mlp/x/checkpoints"
    (newest, _), (_, before) = scan(directory)[:2]
    damage(newest)
    (place / "runs/mlp/latest").unlink()
    code, text = train(place)
    assert code == 0, text
    assert f"warning: passing over {newest.relative_to(place)}" in text
    assert f"step {before.step} (attempt 2)" in text
    assert outcome(place / "runs/mlp/x") == uninterrupted


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def test_a_pickle_payload_is_never_executed(place: Path, tmp_path: Path) -> None:
    kill_after_checkpoint(place, 0.2)
    marker = tmp_path / "executed"
    directory = place / "runs/mlp/x/checkpoints"
    for path, info in scan(directory):
        torch.save({"state_dict": Payload(marker)}, path)
        fitting = {**vars(info), "size": path.stat().st_size, "sha256": sha256_file(path)}
        path.with_suffix(".json").write_text(json.dumps(fitting))
    code, text = train(place)
    assert code == 2, text
    assert "is not a scaledl checkpoint" in text
    assert not marker.exists()
    assert scan(directory)


def test_a_full_disk_leaves_the_previous_checkpoint(
    place: Path, tmpfs: Callable[[str], Path], remount: Callable[[Path, str], None]
) -> None:
    disk = tmpfs("1200k")
    wide = (f"run.root={disk}/runs", "model.hidden=[600]", "trainer.epochs=4")
    code, text = train(place, *wide)
    assert code == 1, text
    directory = disk / "runs/mlp/x/checkpoints"
    newest = newest_verified(directory)
    assert newest is not None
    [error] = [line for line in text.splitlines() if line.startswith("error: ")]
    assert "cannot write the checkpoint" in error
    assert "no space left on the disk" in error
    assert f"{newest[0].name} remains, and the same command goes on from there" in error
    assert not list(disk.rglob("*.tmp"))
    remount(disk, "size=50m")
    code, text = train(place, *wide)
    assert code == 0, text
    assert f"step {newest[1].step} (attempt 2)" in text
    assert train(place, *wide[1:])[0] == 0
    assert outcome(disk / "runs/mlp/x") == outcome(place / "runs/mlp/x")


def test_a_disk_that_becomes_read_only(
    place: Path, uninterrupted: Trained, tmpfs: Callable[[str], Path], remount: Callable[[Path, str], None]
) -> None:
    disk = tmpfs("50m")
    process = start(place, f"run.root={disk}/runs")
    wait_for(lambda: any((disk / "runs/mlp/x/checkpoints").glob("step-*.json")), process)
    remount(disk, "ro")
    code, text = finish(process)
    assert code == 1, text
    assert "the filesystem is read-only" in text
    code, text = train(place, f"run.root={disk}/runs")
    assert code in (1, 2), text
    assert "read-only" in text
    remount(disk, "rw")
    assert train(place, f"run.root={disk}/runs")[0] == 0
    assert outcome(disk / "runs/mlp/x") == uninterrupted


@pytest.mark.parametrize("options", ["rw", "ro"])
def test_a_tiny_or_read_only_tmpdir_does_not_matter(
    place: Path,
    uninterrupted: Trained,
    tmpfs: Callable[[str], Path],
    remount: Callable[[Path, str], None],
    options: str,
) -> None:
    tiny = tmpfs("16k")
    remount(tiny, options)
    code, text = train(place, environment={"TMPDIR": str(tiny)})
    assert code == 0, text
    assert outcome(place / "runs/mlp/x") == uninterrupted


def test_metrics_of_a_full_disk_end_in_one_message(place: Path, tmpfs: Callable[[str], Path]) -> None:
    disk = tmpfs("200k")
    often = ("trainer.log_every_n_steps=1", "trainer.checkpoint_every_n_steps=100000", "trainer.epochs=60")
    code, text = train(place, f"run.root={disk}/runs", "data.batch_size=2", *often)
    assert code == 1, text
    assert "no space left on the disk" in text
