"""launch/*.sh with real torchrun, deepspeed and sshd: they train, pass signals on, and leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.ssh_server import SshServer

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
LOCAL, MULTINODE, DEEPSPEED = (str(ROOT / f"launch/{name}.sh") for name in ("local", "multinode", "deepspeed"))
CONFIG = """\
data: {source: digits, batch_size: 64}
model: {family: mlp, hidden: [16]}
trainer: {epochs: 1, num_threads: 1, precision: fp32, timeout_seconds: 60}
"""
ENDLESS = "trainer.epochs=200000"
EVERY = os.environ.get("SCALEDL_EXHAUSTIVE") == "1"
MARK = "SCALEDL_TEST_MARK"  # in the environment of all that a test starts


class Place:
    """A folder to start from, and what was started from it."""

    def __init__(self, folder: Path, ssh: str) -> None:
        self.folder = folder
        self.mark = str(folder)
        self._ssh = ssh
        (folder / "tiny.yaml").write_text(CONFIG)
        (folder / "hosts").write_text("node1 slots=1\nnode2 slots=1\n")

    def start(self, *command: str, ranks: int | None = None, **more: str) -> subprocess.Popen[str]:
        env = {**os.environ, "SCALEDL_VENV": str(Path(sys.executable).parents[1]), "SCALEDL_SSH": self._ssh}
        env |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", MARK: self.mark, **more}
        if ranks is not None:
            env["NPROC"] = str(ranks)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.folder, env=env, **pipes)  # type: ignore[call-overload]

    def run(self, *command: str, ranks: int | None = None, **more: str) -> tuple[int, str, str]:
        process = self.start(*command, ranks=ranks, **more)
        out, err = process.communicate(timeout=180)
        return process.returncode, out, err

    @property
    def run_folder(self) -> Path:
        return self.folder / "runs/tiny/one"

    def manifest(self) -> dict[str, object]:
        return dict(json.loads((self.run_folder / "manifest.json").read_text()))

    def wait_for_steps(self, process: subprocess.Popen[str], ranks: int) -> None:
        """Until every rank has made some."""

        def all_step() -> bool:
            texts = [path.read_text() for path in (self.run_folder / "ranks").glob("rank-*.status")]
            return len(texts) == ranks and not any("\nstep=0\n" in text for text in texts)

        deadline = time.monotonic() + 90
        while not all_step():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "no steps"
            time.sleep(0.1)

    def left(self) -> dict[int, str]:
        """Processes that carry the mark, or are ranks of this folder: ssh does not hand on the mark."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                variables = (folder / "environ").read_bytes().split(b"\0")
                inside = (folder / "cwd").readlink() == self.folder
                if f"{MARK}={self.mark}".encode() in variables or (inside and int(folder.name) != os.getpid()):
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def wait_until_none_is_left(self, seconds: float = 15.0) -> None:
        deadline = time.monotonic() + seconds
        while (left := self.left()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left


@pytest.fixture
def place(server: SshServer, tmp_path: Path) -> Iterator[Place]:
    folder = tmp_path / "my place"
    folder.mkdir()
    place = Place(folder, server.command)
    yield place
    left = place.left()
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, "the test left processes running"


TWO_HOSTS = ([MULTINODE, "node1,node2"], None)
WAYS = {
    "local": ([LOCAL], 2),
    "multinode": TWO_HOSTS,
    "deepspeed": ([DEEPSPEED], 2),
    "deepspeed-hosts": ([DEEPSPEED, "--hostfile", "hosts"], None),
}


@pytest.mark.parametrize("way", WAYS)
def test_two_ranks_train_one_run(way: str, place: Place) -> None:
    words, ranks = WAYS[way]
    code, out, err = place.run(*words, "tiny.yaml", "run.id=one", "run.seed=1", ranks=ranks)
    assert (code, err) == (0, "")
    assert out.count("test accuracy") == 1
    manifest = place.manifest()
    assert (manifest["status"], manifest["world_size"], manifest["attempts"]) == ("complete", 2, 1)
    place.wait_until_none_is_left()


def test_one_rank_alone(place: Place) -> None:
    code, out, err = place.run(LOCAL, "tiny.yaml", "run.id=one", ranks=1)
    assert (code, err) == (0, "")
    assert "test accuracy" in out


@pytest.mark.parametrize("way", WAYS if EVERY else ["local", "multinode"])
def test_a_wrong_config_is_refused_without_a_traceback(way: str, place: Place) -> None:
    words, ranks = WAYS[way]
    code, _, err = place.run(*words, "tiny.yaml", "optimizer.lr=0", ranks=ranks)
    assert code == 2
    assert "optimizer.lr" in err
    if way == "local":
        assert err.count("optimizer.lr (command line): got 0") == 1, "said once, not by every rank"
    assert "Traceback" not in err
    assert "exitcode" not in err
    place.wait_until_none_is_left()


@pytest.mark.parametrize(
    ("way", "signum", "expected"),
    [
        ("local", signal.SIGUSR1, 75),
        ("local", signal.SIGINT, 130),
        ("multinode", signal.SIGTERM, 75),
        ("deepspeed-hosts", signal.SIGTERM, 75),
        *(
            [
                ("local", signal.SIGTERM, 75),
                ("local", signal.SIGHUP, 75),
                ("multinode", signal.SIGINT, 130),
                ("deepspeed", signal.SIGTERM, 75),
            ]
            if EVERY
            else []
        ),
    ],
)
def test_a_stop_signal_is_saved_for_and_keeps_its_exit_code(way: str, signum: int, expected: int, place: Place) -> None:
    words, ranks = WAYS[way]
    process = place.start(*words, "tiny.yaml", "run.id=one", ENDLESS, ranks=ranks)
    place.wait_for_steps(process, 2)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == expected, err
    assert err.count("checkpoint saved ") == 1
    assert "To go on, start its ranks as before, with: scaledl train tiny.yaml run.id=one" in err
    assert "Traceback" not in err
    assert place.manifest()["status"] == "preempted"
    assert list((place.run_folder / "checkpoints").glob("step-*.ckpt"))
    place.wait_until_none_is_left()


def test_a_signal_before_there_are_ranks_ends_it_at_once(place: Place) -> None:
    process = place.start(LOCAL, "tiny.yaml", "run.id=one", ENDLESS, ranks=2)
    time.sleep(0.7)  # torchrun imports torch
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 75
    place.wait_until_none_is_left()


@pytest.mark.parametrize("way", ["local", "multinode", "deepspeed"] if EVERY else ["multinode"])
def test_a_killed_rank_ends_all_of_them(way: str, place: Place) -> None:
    words, ranks = WAYS[way]
    process = place.start(*words, "tiny.yaml", "run.id=one", ENDLESS, ranks=ranks)
    place.wait_for_steps(process, 2)
    text = (place.run_folder / "ranks/rank-00001.status").read_text()
    os.kill(int(text.partition("\npid=")[2].split()[0]), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode not in (0, 75), err
    assert "rank 1" in err
    assert "SIGKILL" in err
    place.wait_until_none_is_left()


@pytest.mark.parametrize("way", ["local", "multinode", "deepspeed-hosts"] if EVERY else ["multinode"])
def test_nothing_is_left_when_the_script_itself_is_killed(way: str, place: Place) -> None:
    words, ranks = WAYS[way]
    process = place.start(*words, "tiny.yaml", "run.id=one", ENDLESS, ranks=ranks)
    place.wait_for_steps(process, 2)
    process.kill()
    process.communicate()
    place.wait_until_none_is_left(45.0)


def test_a_broken_connection_ends_all_hosts(place: Place, server: SshServer) -> None:
    process = place.start(*TWO_HOSTS[0], "tiny.yaml", "run.id=one", ENDLESS)
    place.wait_for_steps(process, 2)
    for session in server.sessions()[-1:]:
        for pid in [session, *_children(session)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 1
    assert "the ssh connection ended; all hosts stop" in err
    place.wait_until_none_is_left(45.0)


def _children(pid: int) -> list[int]:
    """sshd's processes for one connection, without the command that it runs."""
    with suppress(OSError):
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in found if "sshd" in Path(f"/proc/{child}/comm").read_text()]
    return []


def test_deaf_ranks_are_killed_after_the_grace_time(place: Place) -> None:
    deaf = "import os, signal, time\nfor s in (1, 2, 10, 15): signal.signal(s, signal.SIG_IGN)\n"
    (place.folder / "deaf.py").write_text(deaf + "open('up', 'w').close()\ntime.sleep(600)\n")
    words = [sys.executable, "-m", "scaledl.launch.supervise", "--", sys.executable, "-m", "scaledl.launch.torchrun"]
    process = place.start(*words, "--standalone", "--nproc-per-node=1", "deaf.py", SCALEDL_GRACE_SECONDS="1")
    wait = time.monotonic() + 60
    while not (place.folder / "up").exists() and time.monotonic() < wait:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 137
    place.wait_until_none_is_left()


Arguments = list[str]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([MULTINODE, "node1"], "usage: "),
        ([MULTINODE, "node1,node1", "tiny.yaml"], "twice"),
        ([MULTINODE, "no/hosts", "tiny.yaml"], "no such file"),
        ([MULTINODE, "node1,nowhere.invalid", "tiny.yaml"], "nowhere.invalid: "),
        ([DEEPSPEED], "usage: "),
        ([DEEPSPEED, "--hostfile"], "usage: "),
        ([DEEPSPEED, "--hostfile", "none", "tiny.yaml"], "no hostfile none"),
    ],
)
def test_what_cannot_start_is_refused_before_anything_does(words: Arguments, message: str, place: Place) -> None:
    code, out, err = place.run(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert not (place.folder / "runs").exists()


def test_a_host_without_the_folder_is_named(place: Place) -> None:
    """The other host is a shell that sees another root: its `cd` fails as on a host without the filesystem."""
    ssh = place.folder / "ssh"
    ssh.write_text(
        '#!/bin/sh\nfor word; do :; done\ncd /; exec sh -c "cd() { echo \\"cd: $1: none\\" >&2; return 1; }; $word"\n'
    )
    ssh.chmod(0o755)
    code, _, err = place.run(MULTINODE, "n1", "tiny.yaml", SCALEDL_SSH=f"'{ssh}'")
    assert code == 2
    assert "n1: cd: " in err
    assert str(place.folder) in err
