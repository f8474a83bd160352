"""launch/ray.sh over a real sshd, and launch/ray-cluster.yaml in Ray's own hands."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.ssh_server import SshServer

pytestmark = pytest.mark.integration
INTERRUPT = pytest.param(signal.SIGINT, marks=pytest.mark.exhaustive)

ROOT = Path(__file__).parents[2]
RAY = str(ROOT / "launch/ray.sh")
CONFIG = """\
data: {source: digits, batch_size: 64}
model: {family: mlp, hidden: [16]}
trainer: {epochs: 1, num_threads: 1, precision: fp32}
tune: {scheduler: none, space: {optimizer.lr: {loguniform: [1e-3, 1e-1]}}}
"""
ENDLESS = "trainer.epochs=200000"
MARK = "SCALEDL_TEST_MARK"  # in the environment of all that a test starts, on other hosts as well


class Place:
    """A folder to start from, and what was started from it."""

    def __init__(self, folder: Path, ssh: str) -> None:
        self.folder = folder
        self._ssh = ssh
        (folder / "tiny.yaml").write_text(CONFIG)

    def start(self, *words: str) -> subprocess.Popen[str]:
        env = {**os.environ, "SCALEDL_VENV": str(Path(sys.executable).parents[1]), "SCALEDL_SSH": self._ssh}
        env |= {MARK: str(self.folder)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([RAY, *words], cwd=self.folder, env=env, **pipes)  # type: ignore[call-overload]

    def run(self, *words: str) -> tuple[int, str, str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=180)
        return process.returncode, out, err

    def environments(self) -> dict[int, dict[bytes, bytes]]:
        found = {}
        for file in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                pairs = dict(line.partition(b"=")[::2] for line in file.read_bytes().split(b"\0"))
                if pairs.get(MARK.encode()) == os.fsencode(self.folder):
                    found[int(file.parent.name)] = pairs
        return found

    def _commands(self) -> list[bytes]:
        return [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in self.environments()]

    def ray_folders(self) -> set[Path]:
        """Of the nodes that run."""
        tokens = [pairs.get(b"RAY_AUTH_TOKEN_PATH") for pairs in self.environments().values()]
        return {Path(os.fsdecode(token)).parent for token in tokens if token}

    def wait_for_trials(self, process: subprocess.Popen[str], count: int) -> None:
        """Until so many run."""
        deadline = time.monotonic() + 90
        while len(list((self.folder / "runs/tiny/one/trials").glob("*/manifest.json"))) < count:
            assert process.poll() is None, process.communicate()
            if time.monotonic() > deadline:
                process.kill()
                raise AssertionError(process.communicate())
            time.sleep(0.1)

    def assert_nothing_is_left(self, folders: set[Path], seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while self.environments() or any(folder.exists() for folder in folders):
            assert time.monotonic() < deadline, (self._commands(), folders)
            time.sleep(0.1)


@pytest.fixture
def place(server: SshServer, tmp_path: Path) -> Iterator[Place]:
    folder = tmp_path / "my place"
    folder.mkdir()
    place = Place(folder, server.command)
    yield place
    left = place.environments()
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, "the test left processes running"


def test_a_search_over_two_hosts(place: Place) -> None:
    code, out, err = place.run("node1:1,node2:1", "tiny.yaml", "--trials", "3", "run.id=one")
    assert (code, err) == (0, "")
    assert "Ray runs on node1, node2" in out
    assert " trials at a time on 2 nodes, 1 CPU each" in out
    assert "(autoscaler" not in out
    assert json.loads((place.folder / "runs/tiny/one/manifest.json").read_text())["status"] == "complete"
    place.assert_nothing_is_left(set(), 3)


@pytest.mark.parametrize("signum", [signal.SIGTERM, INTERRUPT, signal.SIGKILL])
def test_a_signal_stops_the_search_and_ray_on_all_hosts(signum: int, place: Place) -> None:
    process = place.start("node1:1,node2:1", "tiny.yaml", "--trials", "3", "run.id=one", ENDLESS)
    place.wait_for_trials(process, 2)
    folders = place.ray_folders()
    assert len(folders) == 2
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGTERM: 75, signal.SIGINT: 130, signal.SIGKILL: -9}[signal.Signals(signum)], (
        err
    )
    assert "Traceback" not in err
    place.assert_nothing_is_left(folders, 45)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["node1"], 2, "usage: launch/ray.sh"),
        (["node1,node1", "tiny.yaml"], 2, "twice"),
        (["node1,nowhere.invalid", "tiny.yaml"], 2, "nowhere.invalid: "),
        (["node1,node2", "tiny.yaml", "optimizer.lr=fast"], 2, "optimizer.lr"),
    ],
)
def test_what_cannot_start_is_refused(words: list[str], code: int, message: str, place: Place) -> None:
    got, _, err = place.run(*words)
    assert got == code
    assert message in err
    assert "Traceback" not in err
    assert not (place.folder / "runs").exists()
    place.assert_nothing_is_left(set(), 3)


# launch/ray-cluster.yaml


def cluster() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "launch/ray-cluster.yaml").read_text()))


def test_ray_up_takes_the_cluster_file() -> None:
    code = (
        "import sys, yaml\n"
        "from ray.autoscaler._private.util import prepare_config, validate_config\n"
        "config = prepare_config(yaml.safe_load(open(sys.argv[1])))\n"
        "validate_config(config)\n"
        "print(sorted(config['available_node_types']), config['max_workers'])"
    )
    words = [sys.executable, "-c", code, str(ROOT / "launch/ray-cluster.yaml")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["['local.cluster.node'] 2"]), done.stderr


@pytest.mark.parametrize("role", ["head", "worker"])
def test_its_commands_are_ones_that_ray_knows(role: str) -> None:
    stop, start = cluster()[f"{role}_start_ray_commands"]
    assert stop.endswith(" ray stop")
    assert " RAY_AUTH_MODE=token ray start " in start
    words = shlex.split(start.partition(" ray start ")[2])
    code = "import sys; from ray.scripts.scripts import start; start.make_context('start', sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert subprocess.run(["sh", "-n", "-c", start]).returncode == 0


def test_its_token_goes_to_all_machines_and_stays_private() -> None:
    found = cluster()
    assert found["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert found["setup_commands"] == ["chmod 600 ~/.ray/auth_token"]


HEAD, WORKER = "10.213.0.1", "10.213.0.2"
SSHD = """\
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
SetEnv RAY_TMPDIR={folder}/{rank}
"""
# A home of its own, in which all that is in the real one can be read, but for keys and tokens; and the folder that
# sshd asks for, which only a start by the system makes.
HOME = r"""
mount -t tmpfs -o mode=755 run /run && mkdir /run/sshd
mkdir $1 && mount --bind "$2" $1 && mount -t tmpfs -o mode=700 home "$2"
for found in $1/* $1/.[!.]*
do case $found in */.ssh | */.ray) ;; *) ln -s $found "$2" ;; esac
done
"""
# n1 and n2 are machines with an sshd each, processes, home and Ray of their own; n3 is where somebody types.
MACHINE = r"""
set -e
cd {folder}
ip route add default dev eth0  # by it Ray finds the address of its machine
[ "$RANK" = 2 ] || exec unshare --pid --fork --mount-proc --kill-child sh -c \
    'sh home.sh {folder}/home$RANK "$0" && "$(command -v sshd)" -D -f {folder}/sshd$RANK & wait' {home}
export HOME={folder}/home2 RAY_TMPDIR={folder}/2 RAY_AUTH_MODE=token RAY_UP_enable_autoscaler_v2=0
on() {{ ssh -i key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "$@"; }}
until on {head} true && on {worker} true; do sleep 0.2; done 2> /dev/null
ray get-auth-token --generate > /dev/null
ray up --yes --no-config-cache cluster.yaml > up.log 2>&1
on {head} "cd {folder} && . .venv/bin/activate && export RAY_AUTH_MODE=token && python alive.py &&
    scaledl tune tiny.yaml --trials 2 run.id=one --address {head}:6379"
for machine in {head} {worker}; do on $machine {folder}/.venv/bin/ray stop > stop.log; done
ray down --yes cluster.yaml > down.log 2>&1
for machine in {head} {worker}; do
    on $machine "ps -eo stat,comm | grep -v ^Z | grep -c raylet || true"
done
"""
ALIVE = """\
import ray, time
ray.init("auto", logging_level="error", log_to_driver=False)
while sum(node["Alive"] for node in ray.nodes()) < 2:
    time.sleep(0.5)
"""


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Ray keeps sockets below it, whose names may have 107 bytes. Removed after what is asked for later."""
    folder = Path(tempfile.mkdtemp(prefix="ru"))
    yield folder
    shutil.rmtree(folder)


def test_ray_up_brings_up_machines_that_a_search_uses(
    short_folder: Path, machines: Any, cannot: Callable[[str], None]
) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
    for program in ("sshd", "ssh-keygen", "rsync"):
        if shutil.which(program, path=path) is None:
            cannot(f"{program} is not installed: apt install openssh-server rsync")
    _machine_files(short_folder)
    children = machines(["bash", str(short_folder / "machine.sh")], 3, {"PATH": path})
    out, err = children[2].communicate(timeout=240)
    log = short_folder / "up.log"
    assert children[2].returncode == 0, (out, err, log.read_text()[-3000:] if log.exists() else "")
    assert " trials at a time on 2 nodes, 1 CPU each" in out
    assert "(autoscaler" not in out
    assert out.split()[-2:] == ["0", "0"], "ray down left something"
    manifest = json.loads((short_folder / "runs/tiny/one/manifest.json").read_text())
    assert manifest["status"] == "complete"


def _machine_files(folder: Path) -> None:
    user = pwd.getpwuid(os.getuid())
    home = shlex.quote(user.pw_dir)
    for name in ("host_key", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    (folder / "home2").mkdir()
    for rank in range(2):
        (folder / f"sshd{rank}").write_text(SSHD.format(folder=folder, rank=rank))
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "tiny.yaml").write_text(CONFIG)
    (folder / "alive.py").write_text(ALIVE)
    (folder / "machine.sh").write_text(MACHINE.format(folder=folder, head=HEAD, worker=WORKER, home=home))
    (folder / "home.sh").write_text(HOME)
    text = (ROOT / "launch/ray-cluster.yaml").read_text().replace("/shared/scaledl", str(folder))
    found = yaml.safe_load(text)
    found["provider"].update(head_ip=HEAD, worker_ips=[WORKER])
    found["auth"] = {"ssh_user": user.pw_name, "ssh_private_key": str(folder / "key")}
    (folder / "cluster.yaml").write_text(yaml.safe_dump(found))
