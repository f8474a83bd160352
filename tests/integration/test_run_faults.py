"""Run directories under real faults: full and read-only disks, kill -9 at any moment, several processes at once."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.integration.conftest import fill

from scaledl.config import Config
from scaledl.errors import ScaledlError, UsageError
from scaledl.run import Run, atomic_file, atomic_write, list_runs

pytestmark = pytest.mark.integration

Mount = Callable[[str], Path]
Remount = Callable[[Path, str], None]

PRELUDE = """
import sys, time
from pathlib import Path
from scaledl.config import Config
from scaledl.errors import ScaledlError, UsageError
from scaledl.run import Run, atomic_write
path = Path(sys.argv[1])
def ready():
    print("ready", flush=True)
"""
BEGIN_AND_UPDATE = """
run = Run.open(path); run.begin(); ready()
for i in range(10**9):
    run.update(metrics={"step": float(i)}, seed=i)
"""
BEGIN_AND_WAIT = "run = Run.open(path); run.begin(); ready(); time.sleep(600)"
CREATE_FOREVER = """
config = Config()  # its classes are built at the first use, which takes longer than the test waits
Run.create(path, 'digits', config=config); ready()
while True:
    Run.create(path, 'digits', config=config)
"""
CREATE_TEN = "ready(); sys.stdin.readline()\nfor _ in range(10): print(Run.create(path, 'digits', config=Config()).id)"
BEGIN_AT_ONCE = """
run = Run.open(path); ready(); sys.stdin.readline()
try:
    print("won", run.begin(), flush=True)
except UsageError as error:
    print("lost", error, flush=True)
sys.stdin.readline()
"""
WRITE_TWO_MEGABYTES = "atomic_write(path, b'x' * 2_000_000); Run.create(path.parent / 'runs', 'a', config=Config())"


def start(code: str, path: Path, **variables: str) -> subprocess.Popen[str]:
    """A process that has said that it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def make(root: Path, id: str | None = None) -> Run:
    return Run.create(root, "digits", id, config=Config())


def temporary_files(directory: Path) -> list[Path]:
    return list(directory.rglob(".*.tmp"))


# Full disk


def test_a_full_disk_leaves_the_previous_version_and_says_so(tmpfs: Mount) -> None:
    disk = tmpfs("1m")
    target = disk / "checkpoints/last.ckpt"
    atomic_write(target, b"old" * 100_000)
    with pytest.raises(ScaledlError) as caught:
        atomic_write(target, b"new" * 300_000, what="checkpoint")
    message = str(caught.value)
    for part in (
        "cannot write the checkpoint",
        str(target),
        "no space left",
        "free of 1 MiB",
        "previous version is intact",
    ):
        assert part in message
    assert target.read_bytes() == b"old" * 100_000
    assert temporary_files(disk) == []
    atomic_write(target, b"new" * 100_000)


def test_a_full_disk_leaves_the_manifest(tmpfs: Mount) -> None:
    disk = tmpfs("512k")
    run = make(disk)
    run.begin()
    fill(disk)
    with pytest.raises(ScaledlError, match=r"manifest.*no space left.*previous version is intact"):
        run.finish("complete", accuracy=1.0)
    assert run.state == "running"
    assert temporary_files(disk) == []
    run.check_token()
    run.heartbeat()
    (disk / "filler").unlink()
    run.finish("complete", accuracy=1.0)
    assert Run.open(run.path).state == "complete"


def test_no_run_is_made_on_a_full_disk(tmpfs: Mount) -> None:
    disk = tmpfs("256k")
    (disk / "runs/digits").mkdir(parents=True)
    fill(disk)
    with pytest.raises(ScaledlError, match="no space left"):
        make(disk / "runs")
    assert list_runs(disk / "runs") == []
    assert list((disk / "runs/digits").iterdir()) == []


def test_writers_that_hide_the_reason_are_seen_through(tmpfs: Mount) -> None:
    disk = tmpfs("1m")
    target = disk / "weights"
    atomic_write(target, "old")
    tensors = {"x": torch.zeros(1_000_000)}
    for write in (torch.save, save_file):
        with (
            pytest.raises(ScaledlError, match=r"no space left.*previous version is intact"),
            atomic_file(target) as path,
        ):
            write(tensors, str(path))
        assert target.read_text() == "old"
        assert temporary_files(disk) == []


# Read-only disk


def test_a_read_only_disk_stops_before_the_first_step(tmpfs: Mount, remount: Remount) -> None:
    disk = tmpfs("1m")
    run = make(disk / "runs")
    remount(disk, "ro")
    with pytest.raises(ScaledlError, match="read-only"):
        run.begin()
    with pytest.raises(UsageError, match=r"read-only.*run\.root"):
        Run.create(disk / "runs", "other", config=Config())
    with pytest.raises(ScaledlError, match="read-only"):
        make(disk / "runs")
    assert [found.id for found in list_runs(disk / "runs")] == [run.id]


def test_a_disk_that_becomes_read_only_keeps_what_was_there(tmpfs: Mount, remount: Remount) -> None:
    disk = tmpfs("1m")
    run = make(disk)
    run.begin()
    run.update(metrics={"loss": 1.0})
    remount(disk, "ro")
    for act in (lambda: run.update(metrics={}), lambda: atomic_write(run.path / "x", "x")):
        with pytest.raises(ScaledlError, match="read-only"):
            act()
    run.heartbeat()
    assert run.manifest.metrics == {"loss": 1.0}
    run.verify_files()
    remount(disk, "rw")
    run.finish("complete")
    assert run.state == "complete"


@pytest.mark.parametrize("options", ["rw", "ro"])
def test_the_temporary_folder_does_not_matter(tmpfs: Mount, remount: Remount, tmp_path: Path, options: str) -> None:
    tiny = tmpfs("64k")
    fill(tiny)
    remount(tiny, options)
    command = [sys.executable, "-c", PRELUDE + WRITE_TWO_MEGABYTES, str(tmp_path / "big")]
    subprocess.run(command, check=True, env={**os.environ, "TMPDIR": str(tiny)})
    assert (tmp_path / "big").stat().st_size == 2_000_000
    assert len(list_runs(tmp_path / "runs")) == 1


# kill -9


def test_kill_9_while_the_manifest_is_written_leaves_a_readable_one(tmpfs: Mount) -> None:
    run = make(tmpfs("4m"))
    rng = random.Random(0)
    left_behind = attempts = 0
    while attempts < 30 or (left_behind == 0 and attempts < 300):  # until one kill at least has hit a write
        attempts += 1
        process = start(BEGIN_AND_UPDATE, run.path)
        time.sleep(rng.uniform(0, 0.03))
        kill(process)
        manifest = run.manifest
        assert manifest.attempts == attempts
        assert manifest.metrics.get("step", float(manifest.seed)) == manifest.seed
        assert run.state == "killed"
        left_behind += len(temporary_files(run.path))
        assert len(temporary_files(run.path)) <= 1  # the next attempt removed those before
    assert run.begin() == attempts + 1
    assert temporary_files(run.path) == []
    assert left_behind > 0, "no kill hit a write: the test proves nothing"


def test_kill_9_while_runs_are_made_leaves_only_whole_ones(tmpfs: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmpfs("16m")
    rng = random.Random(1)
    for _ in range(10):
        process = start(CREATE_FOREVER, root)
        time.sleep(rng.uniform(0, 0.05))
        kill(process)
    folders = [path for path in (root / "digits").iterdir() if path.is_dir() and path.name[0] not in ".l"]
    runs = list_runs(root)
    assert len(runs) == len(folders) > 10
    assert all(run.state == "killed" and run.config == Config() for run in runs)
    assert capsys.readouterr().err == ""
    make(root)
    assert temporary_files(root) == []


# Several processes


def test_the_holder_is_named_and_after_its_death_gives_way(tmp_path: Path) -> None:
    run = make(tmp_path)
    process = start(BEGIN_AND_WAIT, run.path)
    assert run.state == "running"
    with pytest.raises(UsageError, match=rf"in use by process {process.pid} on "):
        run.begin()
    kill(process)
    assert run.state == "killed"
    assert run.begin() == 2


def test_a_killed_holder_that_nobody_waited_for_is_dead(tmp_path: Path) -> None:
    run = make(tmp_path)
    process = start(BEGIN_AND_WAIT, run.path)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
    assert run.state == "killed"
    assert run.begin() == 2
    process.communicate()


def test_of_processes_that_begin_at_once_one_wins(tmp_path: Path) -> None:
    for round in range(3):
        run = make(tmp_path, f"r{round}")
        processes = [start(BEGIN_AT_ONCE, run.path) for _ in range(3)]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [process.stdout.readline() for process in processes if process.stdout is not None]
        for process in processes:
            process.communicate("end\n")
        assert sorted(answer.split()[0] for answer in answers) == ["lost", "lost", "won"]
        assert run.manifest.attempts == 1
        assert all("in use by process" in answer for answer in answers if answer.startswith("lost"))


def test_processes_that_create_at_once_get_different_runs(tmp_path: Path) -> None:
    processes = [start(CREATE_TEN, tmp_path) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ids = [id for process in processes for id in process.communicate()[0].split()]
    assert len(set(ids)) == 30
    assert {run.id for run in list_runs(tmp_path)} == set(ids)
    assert (tmp_path / "digits/latest").resolve().name in ids


def test_nothing_is_written_to_the_common_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    run = make(tmp_path / "runs")
    run.begin()
    run.finish("complete")
    assert list((tmp_path / "tmp").iterdir()) == []
