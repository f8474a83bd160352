"""Ray's coming and going on this machine: real raylets, killed in every way, and nothing of them left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration
INTERRUPT = pytest.param(signal.SIGINT, marks=pytest.mark.exhaustive)

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests/ray_driver.py"
MARK = "SCALEDL_TEST_MARK"  # in the environment of all that a test starts
FOREIGN = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "n1"}
UP_SECONDS = 90


class Driver:
    """A process with a Ray of its own, its folder, and all that belongs to it."""

    def __init__(self, kind: str, *arguments: str, prefix: list[str] | None = None, **variables: str) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))  # Ray's sockets need short paths
        self.folder = self.base / "search"
        self.folder.mkdir()
        self.temporary = self.base / "t"
        self.temporary.mkdir()
        variables = {"TMPDIR": str(self.temporary), MARK: str(self.base), **variables}
        self.process = subprocess.Popen(
            [*(prefix or []), sys.executable, str(PROGRAM), kind, str(self.folder), *arguments],
            env={**os.environ, **variables},
            cwd=self.folder,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until_up(self) -> dict[str, Any]:
        wait_for(lambda: (self.folder / "up.json").exists() or self.process.poll() is not None, UP_SECONDS)
        assert self.process.poll() is None, self.errors()
        return dict(json.loads((self.folder / "up.json").read_text()))

    def errors(self, timeout: float = 60) -> str:
        return self.process.communicate(timeout=timeout)[1]

    def end(self) -> tuple[int, str]:
        (self.folder / "go").touch()
        return self.process.wait(30), self.errors()

    def processes(self) -> dict[int, str]:
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"{MARK}={self.base}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]
        return found

    def leftovers(self) -> list[object]:
        return [*self.processes().items(), *self.temporary.iterdir()]

    def assert_nothing_is_left(self, seconds: float = 15) -> None:
        wait_for(lambda: not self.leftovers(), seconds, lambda: str(self.leftovers()))

    def clean(self) -> None:
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()
        shutil.rmtree(self.base, ignore_errors=True)


def wait_for(condition: Callable[[], bool], seconds: float, otherwise: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.05)


@pytest.fixture(scope="module")
def _ray() -> None:
    if find_spec("ray") is None:
        if os.environ.get("SCALEDL_REQUIRE_ALL") == "1":
            pytest.fail("SCALEDL_REQUIRE_ALL=1, but ray is not installed")
        pytest.skip("ray is not installed: pip install 'scaledl[tune]'")


@pytest.fixture
def start(_ray: None) -> Iterator[Callable[..., Driver]]:
    """`start("local", "2")`: a driver of the test's own, to be broken."""
    drivers: list[Driver] = []

    def start(kind: str, *arguments: str, **variables: Any) -> Driver:
        drivers.append(Driver(kind, *arguments, **variables))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.clean()


@pytest.fixture(scope="module")
def two_nodes(_ray: None) -> Iterator[tuple[Driver, dict[str, Any]]]:
    """A Ray of two nodes for tests that leave it as it is."""
    driver = Driver("local", "2", **FOREIGN, PYTHONPATH=os.environ.get("PYTHONPATH", ""))
    try:
        yield driver, driver.wait_until_up()
        code, errors = driver.end()
        assert (code, errors) == (0, "")
        driver.assert_nothing_is_left(1)
    finally:
        driver.clean()


Two = tuple[Driver, dict[str, Any]]


def test_two_nodes_are_up_and_known_by_name(two_nodes: Two) -> None:
    _, up = two_nodes
    assert (up["cpus"], up["gpus"], len(up["nodes"])) == (2, 0, 2)
    assert [node["name"][-2:] for node in up["nodes"]] == ["-0", "-1"]
    assert [node["is_head"] for node in up["nodes"]] == [True, False]
    assert all(Path(f"/proc/{node['raylet']}/comm").read_text().strip() == "raylet" for node in up["nodes"])


def test_trials_see_no_scheduler_and_no_rank_of_who_started_them(two_nodes: Two) -> None:
    driver, up = two_nodes
    for node in up["nodes"]:
        assert node["seen"]["environ"] == ["PYTHONPATH"]
        assert node["seen"]["cwd"] == str(driver.folder)


def test_all_that_ray_writes_is_private(two_nodes: Two) -> None:
    driver, up = two_nodes
    for node in up["nodes"]:
        folder = Path(node["folder"])
        assert folder.parent == driver.temporary
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
    assert len({(Path(node["folder"]) / "token").read_text() for node in up["nodes"]}) == 1
    secret = (Path(up["nodes"][0]["folder"]) / "token").read_text()
    assert not any(secret in command for command in driver.processes().values())


def connect(two_nodes: Two, **variables: str) -> tuple[int, str, float]:
    """A stranger's try; with the seconds that it took."""
    started = time.monotonic()
    stranger = Driver("existing", two_nodes[1]["address"], **variables)
    try:
        (stranger.folder / "go").touch()
        code = stranger.process.wait(60)
        return code, stranger.errors(), time.monotonic() - started
    finally:
        stranger.clean()


def token_of(two_nodes: Two) -> str:
    return str(Path(two_nodes[1]["nodes"][0]["folder"]) / "token")


def test_who_has_the_token_may_connect_and_leaves_it_running(two_nodes: Two) -> None:
    code, errors, _ = connect(two_nodes, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=token_of(two_nodes))
    assert (code, errors) == (0, "")
    assert two_nodes[0].process.poll() is None


def test_who_has_no_token_is_refused_in_seconds(two_nodes: Two) -> None:
    code, errors, seconds = connect(two_nodes)
    assert code == 2
    assert "refused us: no token was given; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH" in errors
    assert "Traceback" not in errors
    assert seconds < 15


def test_who_has_another_token_is_refused_in_seconds(two_nodes: Two) -> None:
    code, errors, seconds = connect(two_nodes, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="ab" * 32)
    assert code == 2
    assert "refused us: the token is another one" in errors
    assert seconds < 15


def test_what_answers_but_is_no_ray_is_said_to_be_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        stranger = Driver("existing", f"127.0.0.1:{server.getsockname()[1]}")
        try:
            code = stranger.process.wait(60)
            assert code == 2
            assert "does not answer as a Ray does" in stranger.errors()
        finally:
            stranger.clean()


MORE = [
    pytest.param(victim, marks=pytest.mark.exhaustive) for victim in ("head", "wrapper of head", "wrapper of other")
]


@pytest.mark.parametrize("victim", ["driver", "other", "gcs", *MORE])
def test_after_kill_9_nothing_is_left(victim: str, start: Callable[..., Driver]) -> None:
    driver = start("local", "2")
    up = driver.wait_until_up()
    head, other = up["nodes"]
    pids = {
        "driver": up["pid"],
        "head": head["raylet"],
        "other": other["raylet"],
        "wrapper of head": head["wrapper"],
        "wrapper of other": other["wrapper"],
    }
    [gcs] = [pid for pid, command in driver.processes().items() if "/gcs_server " in command]
    started = time.monotonic()
    os.kill(pids.get(victim, gcs), signal.SIGKILL)
    errors = driver.errors()
    driver.assert_nothing_is_left()
    print(f"{victim}: {time.monotonic() - started:.1f} s")
    if victim == "driver":
        assert driver.process.returncode == -signal.SIGKILL
    else:
        name = other["name"] if victim.endswith("other") else head["name"]
        assert driver.process.returncode == 1, errors
        assert errors.startswith(f"error: Ray on {name}: "), errors


@pytest.mark.parametrize("signum", [signal.SIGTERM, INTERRUPT])
def test_a_signal_while_it_is_up_leaves_nothing(signum: int, start: Callable[..., Driver]) -> None:
    driver = start("local", "1")
    driver.wait_until_up()
    driver.process.send_signal(signum)
    driver.errors()
    assert driver.process.returncode != 0
    driver.assert_nothing_is_left()


@pytest.mark.parametrize("signum", [signal.SIGTERM, INTERRUPT, signal.SIGKILL])
@pytest.mark.parametrize("moment", [pytest.param("wrapper", marks=pytest.mark.exhaustive), "gcs_server", "raylet"])
def test_a_signal_while_it_starts_leaves_nothing(signum: int, moment: str, start: Callable[..., Driver]) -> None:
    driver = start("local", "1")
    part = {"wrapper": "ray._node", "gcs_server": "/gcs_server ", "raylet": "/raylet "}[moment]
    wait_for(lambda: any(part in command for command in driver.processes().values()), UP_SECONDS)
    driver.process.send_signal(signum)
    driver.errors()
    assert driver.process.returncode != 0
    driver.assert_nothing_is_left()


# Machines that are not as they should be: mounts of a process's own


@pytest.fixture
def unshare(cannot: Callable[[str], None]) -> Callable[[str], list[str]]:
    """`unshare("mount …")`: words that run a command after this one in a view of the filesystem of its own."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        cannot("mounts of one's own need root and unshare")
    return lambda command: ["unshare", "--mount", "--", "sh", "-c", f'{command} && exec "$@"', "sh"]


def test_a_folder_that_a_node_does_not_see_is_refused(
    start: Callable[..., Driver], unshare: Callable[[str], list[str]]
) -> None:
    """Fault 48: the second node has another filesystem where the search's folder is."""
    driver = start("apart", json.dumps(unshare("mount -t tmpfs none .")))
    errors = driver.errors()
    assert driver.process.returncode == 2, errors
    host = os.uname().nodename
    assert f"error: {host}-1 cannot see in {driver.folder} what {host}-0 wrote there" in errors
    driver.assert_nothing_is_left()


def test_little_shared_memory_is_told_and_does(
    start: Callable[..., Driver], unshare: Callable[[str], list[str]]
) -> None:
    """64 MB, as containers have it; raylets see what their driver sees."""
    driver = start("local", "1", prefix=unshare("mount -t tmpfs -o size=64m none /dev/shm"))
    up = driver.wait_until_up()
    code, errors = driver.end()
    assert code == 0
    [line] = errors.splitlines()
    assert line.startswith(
        f"warning: {up['nodes'][0]['name']}: there is too little shared memory; Ray holds objects in "
    )
    driver.assert_nothing_is_left()


def test_without_any_room_for_objects_it_is_refused(
    start: Callable[..., Driver], unshare: Callable[[str], list[str]]
) -> None:
    mounts = "mount -t tmpfs -o size=64m none /dev/shm && mount -t tmpfs -o size=64m none ../t"
    driver = start("local", "1", prefix=unshare(mounts))
    errors = driver.errors()
    assert driver.process.returncode == 1
    assert "but Ray needs 100 MB in one of them; make room, or start the container with --shm-size=1g" in errors
    assert "Traceback" not in errors
    driver.assert_nothing_is_left()
