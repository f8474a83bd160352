"""Training from shards: killed in the middle of an epoch, on a full disk, beside others, with data that changed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.integration.conftest import run_command

from scaledl.config.schema import DataConfig, PrepareConfig, StreamConfig
from scaledl.data import build_data
from scaledl.data.prepare import shards
from scaledl.data.prepare.run import prepare
from scaledl.errors import ScaledlError
from scaledl.run import sha256_file

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

STEPS = 46  # of an epoch: 1,458 samples
TRAIN = (
    *("train", "run.name=a", "model.family=mlp", "model.hidden=[16]", "data.batch_size=32", "trainer.epochs=3"),
    *("trainer.precision=fp32", "trainer.num_threads=1", "trainer.checkpoint_every_n_steps=7"),
    *("data.stream.window_shards=2", "data.augment.crop=2", "data.augment.flip=true"),
)
READ = """
import sys
from scaledl.config.schema import AugmentConfig, DataConfig, StreamConfig
from scaledl.data import build_data
url, cache, workers, megabytes = sys.argv[1:]
stream = StreamConfig(cache=cache, cache_gb=float(megabytes) / 1000, window_shards=1, prefetch_shards=1)
data = build_data(DataConfig(source="prepared", root=url, stream=stream), 0)
for _ in range(3):
    loader = data.train_loader(64, AugmentConfig(), 0, num_workers=int(workers))
    ids = sorted(int(i) for batch in loader for i in batch.ids)
    print(ids == list(range(len(data.train))))
"""


def make_set(folder: Path, seed: int = 0, count: int = 2025, shards: int = 4) -> Path:
    """In shards of a MB, of which each holds some 365 images of 30x30."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    images = rng.integers(0, 256, (count, 30, 30, 3), dtype=np.uint8)
    np.savez(folder / "images.npz", x=images, y=np.arange(count) % 3)
    settings = PrepareConfig(shard_mb=1, near_duplicates="keep")
    document = prepare(folder / "images.npz", folder / "set", settings)
    assert len(document["splits"]["train"]["shards"]) == shards
    return folder / "set"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("stream"))


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "set")
    return tmp_path


def weights(folder: Path, id: str) -> str:
    return sha256_file(folder / "runs/a" / id / "model/weights.safetensors")


def positions(run: Path) -> list[int]:
    return [int(path.stem.rpartition("-")[2]) for path in (run / "checkpoints").glob("step-*.json")]


def kill_within_an_epoch(folder: Path, *arguments: str) -> int:
    """Start the training and kill it as soon as there is a checkpoint within the second epoch; its step."""
    command = [sys.executable, "-m", "scaledl.cli", *TRAIN, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if any(STEPS < step < 2 * STEPS for step in positions(folder / "runs/a/killed")):
                break
            time.sleep(0.002)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    return max(positions(folder / "runs/a/killed"))


@pytest.mark.parametrize(
    ("workers", "later", "key"),
    [
        *((0, 0, "run.seed=0"), (2, 0, "run.seed=0"), (0, 2, "run.seed=0")),
        *((0, 2, "data.sampling=balanced"), (2, 0, "task.name=contrastive")),
    ],
)
def test_a_run_killed_within_an_epoch_ends_with_the_same_bits(place: Path, workers: int, later: int, key: str) -> None:
    keys = "data.source=./set", key
    whole = run_command(place, *TRAIN, *keys, "run.id=whole")
    assert whole.code == 0, whole.err
    step = kill_within_an_epoch(place, *keys, "run.id=killed", f"data.num_workers={workers}")
    assert step % STEPS
    done = run_command(place, *TRAIN, *keys, "run.id=killed", f"data.num_workers={later}", "--allow-changes")
    assert done.code == 0, done.err
    assert weights(place, "killed") == weights(place, "whole")


def test_a_run_does_not_go_on_with_another_window_or_other_data(place: Path) -> None:
    kill_within_an_epoch(place, "data.source=./set", "run.id=killed")
    window = "data.stream.window_shards=3"
    done = run_command(place, *TRAIN, "data.source=./set", "run.id=killed", window, "--allow-changes")
    assert done.code == 2, done.err
    assert "data.stream.window_shards=2" in done.err
    shutil.rmtree(place / "set")
    shutil.copytree(make_set(place / "other", seed=1), place / "set")
    changed = run_command(place, *TRAIN, "data.source=./set", "run.id=killed", window, "--allow-changes")
    assert changed.code == 2, changed.err
    assert "is not what" in changed.err
    assert "fingerprint" in changed.err
    assert "Traceback" not in done.err + changed.err


def test_a_shard_that_is_cut_short_is_one_message(place: Path) -> None:
    os.truncate(place / "set/train-00002.safetensors", 1000)
    done = run_command(place, *TRAIN, "data.source=./set", "run.id=cut")
    assert done.code == 2, done.err
    assert done.err.count("\n") <= 2, done.err
    assert "train-00002.safetensors: cut short, 1000 of" in done.err


def test_the_preview_and_the_audit_of_a_set_in_shards(place: Path) -> None:
    sheet = run_command(place, "data", "preview", "./set", "--output", "sheet.png")
    assert sheet.code == 0, sheet.err
    assert (place / "sheet.png").stat().st_size > 1000
    assert run_command(place, "data", "inspect", "./set", "--verify").code == 0
    whole = run_command(place, *TRAIN, "data.source=./set", "run.id=whole", "trainer.epochs=1")
    assert whole.code == 0, whole.err
    audit = run_command(place, "data", "audit", "a/whole", "--split", "train", "--json")
    assert audit.code == 0, audit.err
    assert json.loads(audit.out)


def test_processes_share_a_small_cache(tmp_path: Path) -> None:
    """Of eight shards, and arrays of 3 MB, six shards fit; each process holds up to three."""
    cache, made = tmp_path / "cache", make_set(tmp_path / "made", count=4050, shards=8)
    command = [sys.executable, "-c", READ, f"file://{made}", str(cache), "0", "9.5"]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for reader in readers:
        out, err = reader.communicate(timeout=120)
        assert (out, reader.returncode) == ("True\n" * 3, 0), err
    assert sum(path.stat().st_size for path in cache.iterdir() if path.is_file()) <= 9.5e6


def test_a_full_disk_of_the_cache_is_one_message(made: Path, tmpfs: Callable[[str], Path]) -> None:
    cache = tmpfs("2m") / "cache"
    stream = StreamConfig(cache=str(cache), window_shards=3)
    with pytest.raises(ScaledlError, match=r"no space left on the disk \(.* free of 2(\.0)? MiB\)") as caught:
        list(build_data(DataConfig(source="prepared", root=f"file://{made}", stream=stream), 0).eval_loader("train", 9))
    assert str(caught.value).endswith("fix: make room, or name another disk in data.stream.cache")
    assert not list(cache.glob(".*.tmp"))


def test_a_set_behind_http(made: Path, tmp_path: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(made)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{server.stdout.readline().split()[5]}"
        for workers in "02":
            command = [sys.executable, "-c", READ, url, str(tmp_path / workers), workers, "5.6"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            assert done.stdout == "True\n" * 3, done.stderr
    finally:
        server.kill()
        server.communicate()


def test_the_whole_chain_on_a_table_of_numbers_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, colour = rng.normal(size=(1500, 4)).round(3), rng.integers(0, 3, 1500)
    price, age = x[:, 0] * 3 + colour, x[:, 1] - x[:, 2]
    rows = [",".join(map(str, [*x[i], "rgb"[colour[i]], price[i], age[i]])) for i in range(1500)]
    (tmp_path / "t.csv").write_text("a,b,c,d,colour,price,age\n" + "\n".join(rows) + "\n")
    monkeypatch.setattr(shards, "_MB", 8000)
    document = prepare(tmp_path / "t.csv", tmp_path / "set", PrepareConfig(shard_mb=1, targets=["price", "age"]))
    assert len(document["splits"]["train"]["shards"]) > 3
    command = (
        *("train", "data.source=./set", "run.name=a", "model.family=mlp", "model.hidden=[32,32]"),
        *("task.name=regression", "trainer.epochs=3", "trainer.num_threads=1", "optimizer.lr=0.01"),
    )
    done = run_command(tmp_path, *command, "run.id=whole", "data.num_workers=2")
    assert done.code == 0, done.err
    done = run_command(tmp_path, "compress", "a/whole", "--method", "ptq")
    assert done.code == 0, done.err
    [rows] = (json.loads(path.read_bytes()) for path in tmp_path.rglob("table.json"))
    assert rows, "stages whose files were verified"
