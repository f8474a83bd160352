"""One tiny chain for all tests of the commands, and a way to call commands in this process."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from tests.ssh_server import SshServer, missing_program

from scaledl.cli import main
from scaledl.distributed.environment import ClusterSpec
from scaledl.distributed.preemption import STOP_SIGNALS, stop_flag
from scaledl.run import sha256_file

TINY = """\
data: {source: digits, batch_size: 256}
model: {family: mlp, hidden: [32]}
trainer: {epochs: 1, num_threads: 1, precision: fp32}
compress:
  stages:
    - {method: distill, epochs: 1, student: {hidden: [16]}}
    - {method: prune, epochs: 1}
    - {method: qat, epochs: 1}
"""


@dataclass(frozen=True)
class Done:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Chained:
    """A folder in which `scaledl chain tiny.yaml --id first` ran."""

    folder: Path
    done: Done

    @property
    def compressed(self) -> str:
        """The run of the chain, relative to the folder."""
        [path] = (self.folder / "runs" / "tiny").glob("first-distill-prune-qat-*")
        return str(path.relative_to(self.folder))

    @property
    def artifact(self) -> str:
        return f"{self.compressed}/exports/model.ts"


def run_command(folder: Path, *arguments: str) -> Done:
    """In a process of its own, started as a user starts it."""
    program = str(Path(sys.executable).with_name("scaledl"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [program, *arguments], cwd=folder, capture_output=True, text=True, timeout=300, env=environment
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def chained(tmp_path_factory: pytest.TempPathFactory) -> Chained:
    """Not to be changed: `workplace` gives a copy."""
    folder = tmp_path_factory.mktemp("chain with space")
    (folder / "tiny.yaml").write_text(TINY)
    done = run_command(folder, "chain", "tiny.yaml", "--id", "first")
    assert done.code == 0, done.err
    return Chained(folder, done)


@pytest.fixture
def workplace(chained: Chained, tmp_path: Path) -> Chained:
    """A copy of the chain's folder, to be spoiled."""
    return Chained(shutil.copytree(chained.folder, tmp_path / "copy", symlinks=True), chained.done)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A folder with a config and no run."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path


@dataclass(frozen=True)
class Trained:
    """What two runs of one config are compared by."""

    weights: str
    losses: list[float]


def outcome(run: Path) -> Trained:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [loss for record in records if record["kind"] == "train" for loss in record["losses"]]
    return Trained(sha256_file(run / "model" / "weights.safetensors"), losses)


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def change_one_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def fill(directory: Path, leave: int = 0) -> Path:
    """A file that takes all of a small disk but `leave` bytes."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while shutil.disk_usage(directory).free > leave:
            file.write(b"x" * 4096)
    return filler


def processes_in(folder: Path) -> dict[int, str]:
    """Command lines of those that have this working folder, or one below it; not our own."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cwd").readlink().is_relative_to(folder) and int(process.name) != os.getpid():
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


Call = Callable[..., Done]


@pytest.fixture(scope="session")
def _lightning() -> None:
    """Importing it sets an environment variable, which is no leak of the test that happens to be first."""
    importlib.import_module("pytorch_lightning")


@pytest.fixture
def call(_lightning: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """`call(folder, "runs", "--json")` runs a command in this process: torch is imported once for all of them."""
    handlers = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}

    def run(folder: Path, *arguments: str) -> Done:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["scaledl", *arguments])
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
        text = capsys.readouterr()
        return Done(code, text.out, text.err)

    yield run
    for signum, handler in handlers.items():
        signal.signal(signum, handler)
    stop_flag._installed = False


@dataclass(frozen=True)
class RankAnswer:
    """What a rank's function returned, or the error it raised; and how long it took."""

    value: Any
    error: str
    code: int
    told: bool
    seconds: float


RankFunction = Callable[[ClusterSpec], Any]
RunRanks = Callable[..., dict[int, RankAnswer]]


@pytest.fixture
def run_ranks() -> RunRanks:
    """`run_ranks(function, specs, timeout=60)` calls it with each spec in a process of its own, forked from this one:
    what is imported here need not be imported there."""
    from scaledl.errors import ScaledlError

    context = multiprocessing.get_context("fork")

    def answer(function: RankFunction, index: int, spec: ClusterSpec, answers: Any) -> None:
        begin, value, error, code, told = time.monotonic(), None, "", 0, False
        try:
            value = function(spec)
        except ScaledlError as problem:
            error, code, told = str(problem), problem.exit_code, problem.told
        answers.put((index, value, error, code, told, time.monotonic() - begin))

    def run(function: RankFunction, specs: Sequence[ClusterSpec], timeout: float = 60.0) -> dict[int, RankAnswer]:
        answers = context.Queue()
        children = [
            context.Process(target=answer, args=(function, index, spec, answers)) for index, spec in enumerate(specs)
        ]
        for child in children:
            child.start()
        try:
            found = [answers.get(timeout=timeout) for _ in children]
        except Empty:
            pytest.fail(f"a rank gave no answer within {timeout:g} s")
        finally:
            for child in children:
                child.join(10)
                child.kill()
                child.join()
            answers.close()
            answers.join_thread()
        return {index: RankAnswer(*rest) for index, *rest in sorted(found, key=lambda one: one[0])}

    return run


def _rank_of(rank: int, world_size: int = 2, **changes: Any) -> ClusterSpec:
    nodes = tuple(f"n{number}" for number in range(1, world_size + 1))
    spec = ClusterSpec(
        launcher="slurm",
        rank=rank,
        local_rank=0,
        node_rank=rank,
        world_size=world_size,
        local_world_size=1,
        num_nodes=world_size,
        nodes=nodes,
        master_addr="127.0.0.1",
        master_port=None,
        launch_id=f"test-{os.getpid()}",
        job_id="1",
        restart=0,
    )
    return replace(spec, **changes)


@pytest.fixture
def rank_of() -> Callable[..., ClusterSpec]:
    """`rank_of(1, 2)` is rank 1 of 2 under Slurm, one to a node, all nodes on this machine."""
    return _rank_of


@pytest.fixture
def machines(cannot: Callable[[str], None]) -> Iterator[Network]:
    """`machines(command, 3, variables)` runs it as a rank on each of 3 machines, named n1, n2, n3: namespaces
    that reach each other as 10.213.0.1, .2, .3 over eth0, and know their own names as the loopback."""
    if os.geteuid() != 0:
        cannot("network namespaces need root")
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        cannot("there is no ip or no unshare")
    network = Network(f"scaledl-{os.getpid()}", cannot)
    try:
        yield network
    finally:
        network.remove()


# What netem does, for kernels without it: between the two interfaces that it makes, frames come late or not at all.
WIRE = """
import fcntl, os, random, select, struct, sys, time
from collections import deque
delay, loss, *names = float(sys.argv[1]), float(sys.argv[2]), *sys.argv[3:]
ends = [os.open("/dev/net/tun", os.O_RDWR) for _ in names]
for end, name in zip(ends, names):
    fcntl.ioctl(end, 0x400454CA, struct.pack("16sH", name.encode(), 0x1002))  # TUNSETIFF, IFF_TAP | IFF_NO_PI
print("up", flush=True)
chance, under_way = random.Random(0), deque()
while True:
    pause = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
    for end in select.select(ends, [], [], pause)[0]:
        frame = os.read(end, 65536)
        if chance.random() >= loss:
            under_way.append((time.monotonic() + delay, ends[end == ends[0]], frame))
    while under_way and under_way[0][0] <= time.monotonic():
        _, end, frame = under_way.popleft()
        try:
            os.write(end, frame)
        except OSError:
            pass
"""


class Network:
    """A switch, which is a namespace of its own, and machines around it."""

    def __init__(self, name: str, cannot: Callable[[str], None]) -> None:
        self._name, self._cannot = name, cannot
        self._names: list[str] = []
        self._children: list[subprocess.Popen[str]] = []
        self._made_netns = not NETNS.exists()

    def __call__(
        self,
        command: Sequence[str],
        count: int,
        variables: Mapping[str, str],
        shaping: Mapping[int, str] | None = None,
        lossy: tuple[float, float] | None = None,
    ) -> list[subprocess.Popen[str]]:
        """`shaping`: number of a machine -> arguments of tc for what it sends. `lossy`: seconds by which what goes to
        n1 and comes from it is late, and the share of it that is lost."""
        if not self._names:
            self._build(count, lossy)
        for number, words in (shaping or {}).items():
            done = _run("ip", "netns", "exec", self._names[number], "tc", "qdisc", "add", "dev", "eth0", "root", words)
            if done.returncode != 0:
                self._cannot(f"tc {words}: {done.stderr.strip()}")
        place = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": 1, "LOCAL_RANK": 0, "GROUP_WORLD_SIZE": count}
        for rank in range(count):
            own = {**place, "RANK": rank, "GROUP_RANK": rank}
            environment = {**os.environ, **variables, **{key: str(value) for key, value in own.items()}}
            enter = ["ip", "netns", "exec", self._names[rank + 1], "unshare", "--uts", "sh", "-c"]
            whole = [*enter, 'hostname "$0" && exec "$@"', f"n{rank + 1}", *command]
            pipe = subprocess.PIPE
            self._children.append(subprocess.Popen(whole, env=environment, stdout=pipe, stderr=pipe, text=True))
        return self._children[-count:]

    def link(self, number: int, state: str) -> None:
        """Let a machine's cable be `up` or `down`."""
        _must("ip", "-n", self._names[number], "link", "set", "eth0", state)

    def _build(self, count: int, lossy: tuple[float, float] | None) -> None:
        self._names = [f"{self._name}-{number}" for number in range(count + 1)]
        for name in self._names:
            done = _run("ip", "netns", "add", name)
            if done.returncode != 0:
                self._cannot(f"ip netns add: {done.stderr.strip()}")
        switch = self._names[0]
        _must("ip", "-n", switch, "link", "add", "switch", "type", "bridge")
        _must("ip", "-n", switch, "link", "set", "switch", "up")
        for number, name in list(enumerate(self._names))[1:]:
            port = f"port{number}"
            if lossy and number == 1:
                self._make_wire(name, port, *lossy)
            else:
                _must("ip", "-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", switch)
            _must("ip", "-n", switch, "link", "set", port, "master", "switch", "up")
            _must("ip", "-n", name, "addr", "add", f"10.213.0.{number}/24", "dev", "eth0")
            _must("ip", "-n", name, "link", "set", "eth0", "up")
            _must("ip", "-n", name, "link", "set", "lo", "up")
            others = [f"10.213.0.{other} n{other}" for other in range(1, count + 1) if other != number]
            (NETNS / name).mkdir(parents=True)
            (NETNS / name / "hosts").write_text("\n".join([f"127.0.0.1 localhost n{number}", *others, ""]))

    def _make_wire(self, name: str, port: str, delay: float, loss: float) -> None:
        switch = self._names[0]
        program = [sys.executable, "-c", WIRE, str(delay), str(loss), "wire", port]
        wire = subprocess.Popen(["ip", "netns", "exec", switch, *program], stdout=subprocess.PIPE, text=True)
        self._children.append(wire)
        assert wire.stdout is not None
        if wire.stdout.readline() != "up\n":
            self._cannot("there are no TAP interfaces: no /dev/net/tun")
        _must("ip", "-n", switch, "link", "set", "wire", "netns", name, "name", "eth0")

    def remove(self) -> None:
        for child in self._children:
            child.kill()
            child.communicate()
        for name in self._names:
            _run("ip", "netns", "del", name)
            shutil.rmtree(NETNS / name, ignore_errors=True)
        if self._made_netns and NETNS.exists() and not any(NETNS.iterdir()):
            NETNS.rmdir()


NETNS = Path("/etc/netns")


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([part for word in words for part in word.split()], capture_output=True, text=True)


def _must(*words: str) -> None:
    done = _run(*words)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, cannot: Callable[[str], None]) -> Iterator[SshServer]:
    missing = missing_program()
    if missing is not None:
        cannot(f"{missing} is not installed: apt install openssh-server")
    with SshServer(tmp_path_factory.mktemp("ssh") / "server") as server:
        yield server
