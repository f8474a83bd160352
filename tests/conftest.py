"""What every test is held to: it leaves behind no variable, thread, process or process group. And real small disks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scaledl.console import get_console

# Set once by libraries at import or first use, and harmless.
ALLOWED_VARIABLES = {
    "PYTEST_CURRENT_TEST",
    "CUDA_MODULE_LOADING",
    "CRC32C_SW_MODE",
    "KMP_DUPLICATE_LIB_OK",
    "KMP_INIT_AT_FORK",
    "TORCHINDUCTOR_CACHE_DIR",
    "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR",
    "TRITON_CACHE_DIR",
    "TF_CPP_MIN_LOG_LEVEL",
    "PL_GLOBAL_SEED",
    "PL_SEED_WORKERS",
}
ALLOWED_THREADS = ("MainThread", "tqdm", "TMonitor", "OMP", "torch", "pytorch", "inductor", "pytest_timeout")
ALLOWED_CHILDREN = (
    *("multiprocessing.resource_tracker", "multiprocessing.forkserver", "torch/_inductor/compile_worker"),
    "ranks_program.py",  # kept for all tests of a session, and ended with it
)
GRACE_SECONDS = 3.0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("SCALEDL_EXHAUSTIVE") == "1":
        return
    left_out = [item for item in items if item.get_closest_marker("exhaustive")]
    items[:] = [item for item in items if not item.get_closest_marker("exhaustive")]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(autouse=True)
def _console_as_a_command_finds_it() -> None:
    """A test in the same process may have been told already what is said once in a command."""
    get_console().configure()


@pytest.fixture(autouse=True)
def _no_leaked_variables() -> Iterator[None]:
    before = dict(os.environ)
    yield
    after = dict(os.environ)
    leaked = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} - ALLOWED_VARIABLES
    for name in leaked:
        if name in before:
            os.environ[name] = before[name]
        else:
            del os.environ[name]
    if leaked:
        pytest.fail(f"the test changed environment variables: {sorted(leaked)}")


@pytest.fixture(autouse=True)
def _no_leaked_threads() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    leaked = [thread for thread in threading.enumerate() if thread not in before and not _is_allowed(thread)]
    deadline = time.monotonic() + GRACE_SECONDS
    for thread in leaked:
        thread.join(max(0.0, deadline - time.monotonic()))
    names = [thread.name for thread in leaked if thread.is_alive()]
    if names:
        pytest.fail(f"the test left threads running: {names}")


@pytest.fixture(autouse=True)
def _no_leaked_processes() -> Iterator[None]:
    before = _children()
    yield
    deadline = time.monotonic() + GRACE_SECONDS
    while (leaked := _children().items() - before.items()) and time.monotonic() < deadline:
        time.sleep(0.02)
    for (pid, _), _command in leaked:
        os.kill(pid, signal.SIGKILL)
    if leaked:
        pytest.fail(f"the test left child processes running: {sorted(command for _, command in leaked)}")


@pytest.fixture(autouse=True)
def _no_leaked_process_group() -> Iterator[None]:
    yield
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
        pytest.fail("the test left torch's process group initialised")


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`tmpfs("4m")` mounts a filesystem of that size below tmp_path; it is unmounted after the test."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        target = tmp_path / f"tmpfs{len(mounted)}"
        target.mkdir()
        _mount(["-t", "tmpfs", "-o", f"size={size}", "scaledl-test", str(target)])
        mounted.append(target)
        return target

    yield mount
    for target in mounted:
        subprocess.run(["umount", "--lazy", str(target)], check=True)


@pytest.fixture
def remount() -> Callable[[Path, str], None]:
    """`remount(path, "ro")` for what `tmpfs` mounted: root is not stopped by chmod."""
    return lambda path, options: _mount(["-o", f"remount,{options}", str(path)])


def _mount(arguments: list[str]) -> None:
    if os.geteuid() != 0:
        _cannot("mounting a small filesystem needs root")
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        _cannot("there is no mount command")
    if done.returncode != 0:
        _cannot(f"mount failed: {done.stderr.strip()}")


@pytest.fixture(scope="session")
def cannot() -> Callable[[str], None]:
    """`cannot("there is no such tool")` skips the test; where everything is required, it fails."""
    return _cannot


def _cannot(reason: str) -> None:
    """Skip with the reason; where everything is required, fail."""
    if os.environ.get("SCALEDL_REQUIRE_ALL") == "1":
        pytest.fail(f"SCALEDL_REQUIRE_ALL=1, but {reason}")
    pytest.skip(reason)


def _is_allowed(thread: threading.Thread) -> bool:
    return thread.name.startswith(ALLOWED_THREADS) or type(thread).__name__.startswith(ALLOWED_THREADS)


def _children() -> dict[tuple[int, int], str]:
    """(pid, start time) -> command line of this process's living children; none where there is no /proc."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[1]) != os.getpid() or fields[0] in "ZX":
                continue
            command = (status.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (OSError, IndexError):
            continue
        if not any(allowed in command for allowed in ALLOWED_CHILDREN):
            found[int(status.parent.name), int(fields[19])] = command
    return found


@dataclass(frozen=True)
class Job:
    """What a training on several ranks left: exit code and message, what the ranks wrote, the run in `folder`."""

    code: int
    error: str
    written: str
    folder: Path

    @property
    def losses(self) -> list[float]:
        """Of every optimizer step."""
        lines = (self.folder / "t/one/metrics.jsonl").read_text().splitlines()
        return [loss for record in map(json.loads, lines) if record["kind"] == "train" for loss in record["losses"]]

    @property
    def metrics(self) -> dict[str, float]:
        """Validation of the result."""
        return dict(json.loads((self.folder / "metrics.json").read_text()))

    def ledger(self) -> list[dict[str, Any]]:
        """Every micro-batch of every rank: epoch, step, sample ids."""
        files = sorted(self.folder.glob("ledger-*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    def inspected(self) -> list[dict[str, Any]]:
        """What every rank said of its strategy."""
        return [json.loads(file.read_text()) for file in sorted(self.folder.glob("inspect-*.json"))]


class RankPool:
    """Processes that came together once and train what they are given: most of a short training is start-up."""

    def __init__(self, world_size: int, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        program = [sys.executable, str(Path(__file__).with_name("ranks_program.py"))]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._log = log
        with log.open("ab") as errors:
            self.processes = [
                subprocess.Popen(
                    [*program, *map(str, (rank, world_size, port))],
                    stdin=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
                    stderr=errors,
                    text=True,
                    env=environment,
                )
                for rank in range(world_size)
            ]

    def train(self, folder: Path, plan: dict[str, Any]) -> Job:
        folder.mkdir(exist_ok=True)
        before = self._log.stat().st_size
        leader = self.processes[0]
        assert leader.stdin is not None
        assert leader.stdout is not None
        leader.stdin.write(json.dumps({"folder": str(folder), "plan": plan}) + "\n")
        leader.stdin.flush()
        answer: list[Any] = [-1, "rank 0 is gone"]
        for line in leader.stdout:  # what training shows stands between the answers
            if line.startswith("["):
                answer = json.loads(line)
                break
        return Job(answer[0], answer[1], self._log.read_bytes()[before:].decode(), folder)

    def close(self) -> None:
        leader = self.processes[0]
        assert leader.stdin is not None
        assert leader.stdout is not None
        leader.stdin.close()
        deadline = time.monotonic() + 15
        for process in self.processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        leader.stdout.close()


Together = Callable[..., Job]


@pytest.fixture(scope="session")
def together(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Together]:
    """`together(folder, world_size, **plan)`: a training on so many ranks over gloo, one process each.

    With `fresh=True` in processes of its own, which the training may ruin.
    """
    pools: dict[int, RankPool] = {}
    logs = tmp_path_factory.mktemp("ranks")

    def run(folder: Path, world_size: int, *, fresh: bool = False, **plan: Any) -> Job:
        if fresh:
            pool = RankPool(world_size, logs / f"{len(list(logs.iterdir()))}.log")
            try:
                return pool.train(folder, plan)
            finally:
                pool.close()
        if world_size not in pools or any(p.poll() is not None for p in pools[world_size].processes):
            pools[world_size] = RankPool(world_size, logs / f"{len(list(logs.iterdir()))}.log")
        return pools[world_size].train(folder, plan)

    yield run
    for pool in pools.values():
        pool.close()
