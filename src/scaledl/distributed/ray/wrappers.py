"""The wrappers of all nodes, as the process that started them sees them: what they tell, and how they end."""

from __future__ import annotations

import json
import os
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from scaledl.console import get_console
from scaledl.distributed.ray._environment import MARK_VARIABLE, TOKEN
from scaledl.distributed.ray._processes import ending
from scaledl.errors import ScaledlError, UsageError

NODE_PROGRAM = (sys.executable, "-P", "-m", "scaledl.distributed.ray._node")
START_SECONDS = 120.0  # a cold network filesystem reads Ray slowly
END_SECONDS = 15.0
_ERRORS_LENGTH = 20_000
_SRUN = re.compile(r"^srun: error: \S+: tasks? ([\d,-]+): (.+)$", re.MULTILINE)
LOGS_VARIABLE = "SCALEDL_RAY_LOGS"
RAY_ENVIRONMENT = {  # of every driver
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
    "RAY_SCHEDULER_EVENTS": "0",  # no lines of an autoscaler's own; the board says how many nodes there are
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a task without GPUs sees those of the process, as Ray 3 will have it
}

OWN_ENVIRONMENT = {  # of our nodes, and of a driver on them
    **RAY_ENVIRONMENT,
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "0",  # there is none to wait for
    "RAY_gcs_rpc_server_reconnect_timeout_s": "20",  # a head that is gone does not come back
}


def wants_logs() -> bool:
    """Whether the user asked to see what Ray and its workers write."""
    return os.environ.get(LOGS_VARIABLE, "0") not in ("", "0")


@dataclass
class NodeState:
    """What one wrapper has told so far."""

    name: str
    host: str = ""
    folder: Path | None = None
    ip: str = ""
    port: int = 0
    pid: int = 0
    raylet: int = 0
    is_ready: bool = False
    failure: str = ""
    is_usage: bool = False
    log: list[str] = field(default_factory=list)


class Wrappers:
    """`commands`: one for each node, or a single one (srun) that starts them all."""

    def __init__(self, commands: Sequence[Sequence[str]], names: Sequence[str], environ: Mapping[str, str]) -> None:
        self.nodes = [NodeState(name) for name in names]
        self._mark = secrets.token_hex(8)
        self._secret = secrets.token_hex(32)
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._told: dict[int, bytes] = {}
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for command in commands:
                self._processes.append(self._launch(command, environ))
        except BaseException:
            self.close()
            raise

    def _launch(self, command: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """In a session of its own, so that Ctrl-C reaches this process alone, which then ends the others."""
        try:
            process = subprocess.Popen(
                command,
                env=dict(environ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                start_new_session=True,
            )
        except OSError as error:
            raise ScaledlError(f"{command[0]} could not be started: {error.strerror}") from error
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        self._told[process.stdout.fileno()] = b""
        return process

    # Up

    @property
    def address(self) -> str:
        """Of the head, when it is ready."""
        return f"{self.nodes[0].ip}:{self.nodes[0].port}"

    @property
    def token_file(self) -> str:
        """On the head."""
        assert self.nodes[0].folder is not None
        return str(self.nodes[0].folder / TOKEN)

    def start(self, *, cpus: Sequence[int | None], gpus: int | None = None, store: int | None = None) -> None:
        """Until Ray runs on every node. Raises UsageError or ScaledlError that names the node that did not come.

        Args:
            cpus: of each node; None: all that the process there may use.
            gpus: of every node; None: those that Slurm gave, without Slurm all.
            store: bytes of the object store of every node.
        """
        self._say(
            {
                "token": self._secret,
                "mark": self._mark,
                "names": [node.name for node in self.nodes],
                "cpus": list(cpus),
                "gpus": gpus,
                "store": store,
                "seconds": START_SECONDS,
                "logs": wants_logs(),
                "environment": OWN_ENVIRONMENT,
            }
        )
        deadline = time.monotonic() + 2 * START_SECONDS
        is_announced = False
        while not all(node.is_ready for node in self.nodes):
            self._listen(1.0)
            if self.nodes[0].is_ready and not is_announced:  # earlier, and the others would ask every 2 s
                self._say({"address": self.address})
                is_announced = True
            self._note_ends()
            self._raise_if_failed(is_late=time.monotonic() > deadline)

    def _raise_if_failed(self, is_late: bool) -> None:
        failed = [node for node in self.nodes if node.failure]
        if failed:
            kind = UsageError if all(node.is_usage for node in failed) else ScaledlError
            raise kind("; ".join(map(_described, failed)) + self._last_words(failed))
        if is_late:
            late = [node for node in self.nodes if not node.is_ready]
            names = ", ".join(node.name for node in late)
            raise ScaledlError(f"Ray on {names}: no word within {2 * START_SECONDS:g} s" + self._last_words(late))

    def _last_words(self, nodes: Sequence[NodeState]) -> str:
        """The end of what srun, ssh and the wrappers wrote to standard error, where a node has told nothing itself."""
        lines = self._written().strip().splitlines()
        if not lines or any(node.log or node.is_usage for node in nodes):
            return ""
        return "; last lines: " + " / ".join(line.strip() for line in lines[-5:])

    def _written(self) -> str:
        return os.pread(self._errors.fileno(), _ERRORS_LENGTH, 0).decode(errors="replace")

    def _say(self, line: dict[str, Any]) -> None:
        for process in self._processes:
            assert process.stdin is not None
            with suppress(OSError):
                process.stdin.write(json.dumps(line).encode() + b"\n")
                process.stdin.flush()

    # What they tell

    def fail_reason(self, head_only: bool = False) -> str | None:
        with self._lock:
            self._listen(0.0)
            self._note_ends()
            nodes = self.nodes[:1] if head_only else self.nodes
            return next((_described(node) for node in nodes if node.failure), None)

    def _note_ends(self) -> None:
        """Of wrappers that can tell nothing any more."""
        own = len(self._processes) == len(self.nodes)
        for index, node in enumerate(self.nodes):
            process = self._processes[index if own else 0]
            assert process.stdout is not None
            code = process.poll()
            if code is not None and process.stdout.fileno() not in self._told:
                node.failure = node.failure or f"the process that watches it {ending(code)}"
        for numbers, how in _SRUN.findall(self._written()):
            for index in _expanded(numbers):
                self.nodes[index].failure = self.nodes[index].failure or f"the process that watches it ended: {how}"

    def _listen(self, timeout: float) -> None:
        """Take in what was told, waiting up to so long for the first word."""
        ready, _, _ = select.select(list(self._told), [], [], timeout)
        for descriptor in ready:
            data = os.read(descriptor, 65536)
            if not data:
                del self._told[descriptor]
                continue
            *lines, self._told[descriptor] = (self._told[descriptor] + data).split(b"\n")
            for line in lines:
                with suppress(ValueError):
                    self._take(json.loads(line))

    def _take(self, event: dict[str, Any]) -> None:
        kind, node = event["event"], self.nodes[event["node"]]
        match kind:
            case "here":
                node.host, node.folder, node.name = event["host"], Path(event["folder"]), event["name"]
            case "ready":
                node.ip, node.port, node.pid, node.raylet = (event[key] for key in ("ip", "port", "pid", "raylet"))
                node.is_ready = True
            case "log":
                node.log.append(event["line"])
            case "note":
                get_console().warn(f"{node.name}: {event['text']}")
            case "failed":
                node.failure, node.is_usage = event["message"], event["usage"]

    # Down

    def close(self) -> None:
        """Nothing of them is left here: processes, also where a wrapper was killed, and folders."""
        for process in self._processes:
            assert process.stdin is not None
            with suppress(OSError):
                process.stdin.close()
        deadline = time.monotonic() + END_SECONDS
        for process in self._processes:
            self._see_off(process, deadline)
        for pid in marked(self._mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for node in self.nodes:
            if node.folder is not None and node.host == socket.gethostname():
                shutil.rmtree(node.folder, ignore_errors=True)
        self._errors.close()

    def _see_off(self, process: subprocess.Popen[bytes], deadline: float) -> None:
        assert process.stdout is not None
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        finally:
            process.stdout.close()


def _expanded(numbers: str) -> list[int]:
    """
    >>> _expanded("0-2,5")
    [0, 1, 2, 5]
    """
    ends = [part.partition("-") for part in numbers.split(",")]
    return [index for first, _, last in ends for index in range(int(first), int(last or first) + 1)]


def marked(mark: str) -> list[int]:
    """Living processes of this machine that were started below a wrapper with this mark."""
    wanted, found = f"{MARK_VARIABLE}={mark}".encode(), []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if wanted in file.read_bytes().split(b"\0"):
                found.append(int(file.parent.name))
    return found


def _described(node: NodeState) -> str:
    tail = " / ".join(line for line in node.log if line.strip())[-1500:]
    return f"Ray on {node.name}: {node.failure}" + (f"; last lines: {tail}" if tail else "")
