"""Two ranks that really train, and lose the network, a disk or each other: what is said and kept, how it goes on."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.integration.conftest import (
    Network,
    Trained,
    change_one_byte,
    cut_short,
    fill,
    outcome,
    processes_in,
)

from scaledl.checkpoint import newest_verified, scan
from scaledl.distributed.status import RankStatus, read_statuses

pytestmark = pytest.mark.integration

EXHAUSTIVE = os.environ.get("SCALEDL_EXHAUSTIVE") == "1"
CONFIG = """\
data: {source: digits, batch_size: 64, augment: {crop: 1}}
model: {family: mlp, hidden: [64]}
trainer: {epochs: 6, precision: fp32, num_threads: 1, checkpoint_every_n_steps: 5}
"""
CHECKPOINT_BYTES = 64 * 1024  # it needs more
DIRECT = "trainer.devices=2"  # the command starts the ranks itself
Process = subprocess.Popen[str]
Mount = Callable[[str], Path]
Remount = Callable[[Path, str], None]


@dataclass(frozen=True)
class Training:
    """The same command on two ranks, time after time, in a folder."""

    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "runs/two/x"

    @property
    def checkpoints(self) -> Path:
        return self.run / "checkpoints"

    @property
    def command(self) -> list[str]:
        config = self.folder / "two.yaml"
        if not config.exists():
            config.write_text(CONFIG)
        return [sys.executable, "-m", "scaledl", "train", "two.yaml", "--id", "x"]

    def start(self, *overrides: str, **variables: str) -> Process:
        environment = {**os.environ, **variables}
        pipe, command = subprocess.PIPE, [*self.command, DIRECT, *overrides]
        return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=pipe, stderr=pipe, text=True)

    def finish(self, process: Process, seconds: float = 240) -> tuple[int, str]:
        """Exit code and all that was said. No process is left."""
        out, err = process.communicate(timeout=seconds)
        assert "Traceback" not in err, err
        assert processes_in(self.folder) == {}
        return process.returncode, out + err

    def train(self, *overrides: str, **variables: str) -> tuple[int, str]:
        return self.finish(self.start(*overrides, **variables))

    def statuses(self) -> list[RankStatus]:
        return read_statuses(self.run / "ranks")

    def temporary_files(self) -> list[Path]:
        return list(self.checkpoints.glob(".step-*.ckpt.*.tmp"))


def until(condition: Callable[[], object], *processes: Process, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert all(process.poll() is None for process in processes), [p.communicate() for p in processes]
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.001)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def rank_of(process: Process, rank: int) -> int:
    """The process that is this rank, once it is there: files of an earlier start may have been waited for."""
    mark = f"RANK={rank}".encode()

    def found() -> list[int]:
        pids = children(process.pid)
        return [pid for pid in pids if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")]

    until(found, process)
    [pid] = found()
    return pid


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    until(lambda: is_stopped(pid))


@contextmanager
def held(training: Training, process: Process, *, in_a_save: bool = False) -> Iterator[int]:
    """Rank 0, and so both, stand still in mid-training, when there are two new checkpoints; if asked, in a save."""
    before = set(training.checkpoints.glob("step-*.json"))
    until(lambda: len(set(training.checkpoints.glob("step-*.json")) - before) > 1, process)
    writer = rank_of(process, 0)
    stop(writer)
    while in_a_save and not training.temporary_files():
        os.kill(writer, signal.SIGCONT)
        until(training.temporary_files, process)
        stop(writer)
    try:
        yield writer
    finally:
        with suppress(ProcessLookupError):
            os.kill(writer, signal.SIGCONT)


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    training = Training(tmp_path_factory.mktemp("undisturbed"))
    code, text = training.train()
    assert code == 0, text
    return outcome(training.run)


def errors_in(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


def assert_goes_on(training: Training, undisturbed: Trained, *overrides: str, **variables: str) -> str:
    """The same command resumes, and ends as if nothing had been."""
    newest = newest_verified(training.checkpoints)
    assert newest is not None
    code, text = training.train(*overrides, **variables)
    assert code == 0, text
    assert f"step {newest[1].step} (attempt " in text
    assert outcome(training.run) == undisturbed
    assert list(training.run.rglob("*.tmp")) == []
    return text


# The network (rows 23 and 24 of the fault matrix)


BETWEEN = {"MASTER_ADDR": "10.213.0.1", "MASTER_PORT": "29511", "GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("number", [1, 2] if EXHAUSTIVE else [2])
def test_a_cut_network_ends_both_sides_and_they_go_on(
    training: Training, undisturbed: Trained, machines: Network, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.chdir(training.folder)
    command = [*training.command, "trainer.timeout_seconds=10"]
    ranks = machines(command, 2, BETWEEN)
    until(lambda: scan(training.checkpoints), *ranks)
    machines.link(number, "down")
    began = time.monotonic()
    said = [rank.communicate(timeout=60) for rank in ranks]
    assert time.monotonic() - began < 10 + 15
    assert [rank.returncode for rank in ranks] == [1, 1]  # failed, which slurm/common.sh requeues
    assert processes_in(training.folder) == {}
    lost = "rank 1 on n2 did not answer within 10 s (trainer.timeout_seconds), or the network between does not work"
    errors = errors_in("".join(err for _, err in said))
    assert [f"failed: {lost}" in error for error in errors] == [True], errors
    assert "Traceback" not in "".join(err for _, err in said)
    assert [(status.status, lost in status.message) for status in training.statuses()] == [
        ("failed", True),
        ("stopped", True),
    ]
    machines.link(number, "up")
    for rank in (ranks := machines(command, 2, BETWEEN)):
        _, err = rank.communicate(timeout=240)
        assert rank.returncode == 0, err
    assert {status.start_step > 0 for status in training.statuses()} == {True}
    assert outcome(training.run) == undisturbed


@pytest.mark.parametrize("delay", [0.2] if EXHAUSTIVE else [0.005])
def test_a_slow_and_lossy_link_changes_no_bit(
    training: Training, undisturbed: Trained, machines: Network, monkeypatch: pytest.MonkeyPatch, delay: float
) -> None:
    monkeypatch.chdir(training.folder)
    ranks = machines(training.command, 2, BETWEEN, lossy=(delay, 0.01))
    until(lambda: training.statuses(), *ranks)
    began = time.monotonic()
    for rank in ranks:
        _, err = rank.communicate(timeout=540)
        assert rank.returncode == 0, err
    assert outcome(training.run) == undisturbed
    steps = len(undisturbed.losses)
    assert time.monotonic() - began > steps * 2 * delay  # ranks agree, then add up gradients


# kill -9 (rows 28, 38 and 39)


@dataclass(frozen=True)
class Killed:
    """A training whose rank 0 was killed while it wrote a checkpoint."""

    training: Training
    text: str
    code: int
    seconds: float
    step: int


def kill(training: Training, process: Process, pid: int) -> tuple[int, str, float]:
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    code, text = training.finish(process)
    return code, text, time.monotonic() - began


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """Not to be changed: `interrupted` is a copy."""
    training = Training(tmp_path_factory.mktemp("killed"))
    process = training.start()
    with held(training, process, in_a_save=True) as writer:
        step = scan(training.checkpoints)[0][1].step
        code, text, seconds = kill(training, process, writer)
    return Killed(training, text, code, seconds, step)


@pytest.fixture
def interrupted(killed: Killed, tmp_path: Path) -> Training:
    return Training(shutil.copytree(killed.training.folder, tmp_path / "copy", symlinks=True))


def test_the_writer_killed_in_a_save_leaves_the_checkpoint_before(killed: Killed) -> None:
    assert (killed.code, killed.seconds < 15) == (137, True)
    [error] = errors_in(killed.text)
    assert re.match(r"error: rank 0 on .* was killed by SIGKILL", error)
    assert "frame #" not in killed.text
    assert killed.training.temporary_files(), "it was not hit in a save"
    newest = newest_verified(killed.training.checkpoints)
    assert newest is not None
    assert newest[1].step == killed.step
    assert [status.status for status in killed.training.statuses()] == ["killed", "stopped"]


@pytest.mark.exhaustive
def test_each_rank_killed_in_a_save_costs_no_bit(interrupted: Training, undisturbed: Trained) -> None:
    process = interrupted.start()
    with held(interrupted, process, in_a_save=True) as writer:
        pid = rank_of(process, 1)
        os.kill(pid, signal.SIGKILL)
        os.kill(writer, signal.SIGCONT)
        code, text = interrupted.finish(process)
    assert code == 137, text
    [error] = errors_in(text)
    assert f"(process {pid}) was killed by SIGKILL" in error
    assert [status.status for status in interrupted.statuses()] == ["stopped", "killed"]
    assert "(attempt 3)" in assert_goes_on(interrupted, undisturbed)


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(20 if EXHAUSTIVE else 1))
def test_killed_at_random_moments_of_saves_it_ends_with_the_same_bits(
    training: Training, undisturbed: Trained, seed: int
) -> None:
    chance = random.Random(seed)
    for _ in range(3):
        process = training.start()
        with suppress(AssertionError):  # it was complete before there was another save
            until(training.temporary_files, process)
            pid = rank_of(process, chance.randrange(2))
            time.sleep(chance.uniform(0, 0.02))
            os.kill(pid, signal.SIGKILL)
        training.finish(process)
        assert newest_verified(training.checkpoints) is not None or not scan(training.checkpoints)
    code, text = training.train()
    assert code == 0, text
    assert outcome(training.run) == undisturbed


# Disks (rows 29 to 36)


def test_a_full_disk_at_a_save_leaves_the_only_checkpoint(undisturbed: Trained, tmpfs: Mount) -> None:
    training = Training(tmpfs("4m"))
    process = training.start("trainer.keep_last=1")
    with held(training, process):
        filler = fill(training.folder, leave=CHECKPOINT_BYTES)
    code, text = training.finish(process)
    assert code == 1, text
    newest = newest_verified(training.checkpoints)
    assert newest is not None
    error = errors_in(text)[0]
    assert "cannot write the checkpoint" in error
    assert "no space left on the disk" in error
    assert f"{newest[0].name} remains, and the same command goes on from there" in error
    assert training.temporary_files() == []
    filler.unlink()
    assert_goes_on(training, undisturbed, "trainer.keep_last=1")


@pytest.mark.exhaustive
def test_a_disk_that_becomes_read_only_ends_both_ranks(undisturbed: Trained, tmpfs: Mount, remount: Remount) -> None:
    training = Training(tmpfs("8m"))
    process = training.start()
    with held(training, process):
        remount(training.folder, "ro")
    code, text = training.finish(process)
    assert code == 1, text
    assert "the filesystem is read-only" in errors_in(text)[0]
    newest = newest_verified(training.checkpoints)
    code, text = training.train()
    assert code in (1, 2), text
    assert "read-only" in text
    assert "train  epoch" not in text
    assert newest_verified(training.checkpoints) == newest
    remount(training.folder, "rw")
    assert_goes_on(training, undisturbed)


DAMAGES = [(cut_short, "rw"), (change_one_byte, "ro")] if EXHAUSTIVE else [(cut_short, "ro")]


@pytest.mark.exhaustive
@pytest.mark.parametrize(("damage", "options"), DAMAGES)
def test_a_damaged_newest_gives_way_whatever_tmpdir_is(
    interrupted: Training,
    undisturbed: Trained,
    tmpfs: Mount,
    remount: Remount,
    damage: Callable[[Path], None],
    options: str,
) -> None:
    tiny = tmpfs("16k")
    fill(tiny)
    remount(tiny, options)
    newest = scan(interrupted.checkpoints)[0][0]
    damage(newest)
    (interrupted.run.parent / "latest").unlink()
    text = assert_goes_on(interrupted, undisturbed, TMPDIR=str(tiny))
    assert f"warning: passing over {newest.relative_to(interrupted.folder)}" in text


def test_ranks_that_do_not_share_the_folder_of_runs_are_refused(training: Training) -> None:
    """Rank 1 has another filesystem there."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    place = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 1, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    (training.folder / "runs").mkdir()
    apart = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs apart runs && exec "$@"', "sh"]
    ranks = []
    for rank, before in enumerate(([], apart)):
        environment = {**os.environ, **{key: str(value) for key, value in place.items()}, "RANK": str(rank)}
        pipe, command = subprocess.PIPE, [*before, *training.command]
        ranks.append(
            subprocess.Popen(command, cwd=training.folder, env=environment, stdout=pipe, stderr=pipe, text=True)
        )
    (_, first), (_, second) = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2]
    assert "error: run.root: rank 1 (" in first
    assert "allowed: a folder that all nodes share; choose it with run.root=PATH" in first
    assert second == ""
    assert list((training.folder / "runs").iterdir()) == []
    assert processes_in(training.folder) == {}


# Workers (row 42)


def test_a_killed_worker_of_one_rank_ends_both_and_is_named(training: Training) -> None:
    process = training.start("data.batch_size=2", "data.num_workers=1", "trainer.epochs=20000")
    workers: list[int] = []
    while not workers:  # between epochs there is none
        with held(training, process):
            workers = children(rank_of(process, 1))
            began = time.monotonic()
            for worker in workers:
                os.kill(worker, signal.SIGKILL)
    code, text = training.finish(process)
    assert time.monotonic() - began < 15
    assert code == 1, text
    error = errors_in(text)[0]
    assert "error: rank 1 on " in error
    assert f"DataLoader worker (pid {workers[0]}) was killed by signal 9 (Killed)" in error
