"""One node of a Ray that scaledl starts: beside `ray start` stands this process, which sees that all of it ends.

`python -m scaledl.distributed.ray._node [INDEX]`, 0 for the head; without it, srun says which it is.
Standard input is the lifeline. Its first line is what to start, the second the head's address, which the others wait
for; its end, however it comes, means: leave nothing behind. What happens goes to standard output, an event a line.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from scaledl.distributed.processes import adopt_orphans, descendants, leaving_with
from scaledl.distributed.ray._environment import DATA_VARIABLE, MARK_VARIABLE, TOKEN, environment_of_node
from scaledl.distributed.ray._place import PrivateFolder, free_port, num_cpus, num_gpus, object_store, own_address
from scaledl.distributed.ray._processes import end_all, ending, name_of
from scaledl.distributed.signals import CaughtSignals
from scaledl.errors import ScaledlError, UsageError

_RAY = "r"  # Ray's own folder is below the private one, because Ray lets everybody write there
_LOG_LINES, _LINE_LENGTH = 30, 400  # srun passes on lines of less than 1024 bytes in one piece
_LEAVE_SECONDS = 2.0  # between TERM and KILL: less than Slurm's shortest KillWait
_CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD)
_STARTED = "Ray runtime started"
_LOST = re.compile(r"(\w+) \[exit code=(-?\d+)\]")
# Reads its options when Ray is imported already: on the nodes that wait for the head's address.
_RAY_START = "import sys; from ray.scripts.scripts import cli; cli(['start', *sys.stdin.read().split('\\0')])"


class Failure(ScaledlError):
    """Ray did not start, or ended. `needs_log`: what it wrote says more."""

    def __init__(self, text: str, *, needs_log: bool) -> None:
        super().__init__(text)
        self.needs_log = needs_log


class Node:
    def __init__(self, index: int, signals: CaughtSignals) -> None:
        self.index = index
        self._signals = signals
        self._parent = os.getppid()
        self._input = self._output = b""
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._lost: re.Match[str] | None = None
        self._folder: PrivateFolder | None = None
        self._ray: subprocess.Popen[bytes] | None = None
        self._spec: dict[str, Any] = {}
        self._address, self._port = "", 0
        self._is_started = self._is_ready = False
        self._deadline = float("inf")

    def run(self) -> None:
        """Until the lifeline ends, or Ray does."""
        try:
            for line in self._lines():
                self._follow(line)
        except ScaledlError as error:
            if isinstance(error, Failure) and error.needs_log:
                for text in self._log:
                    self.tell("log", line=text)
            self.tell("failed", message=str(error), usage=isinstance(error, UsageError))
        finally:
            end_all(_LEAVE_SECONDS, self._ray.pid if self._ray is not None else 0)
            if self._folder is not None:
                self._folder.remove()

    def tell(self, event: str, **values: object) -> None:
        """One write, so that no line is cut; the reader may be gone."""
        line = json.dumps({"event": event, "node": self.index, **values})
        with suppress(OSError):
            os.write(1, line.encode() + b"\n")

    # What is waited for

    def _lines(self) -> Iterator[dict[str, Any]]:
        """What comes over standard input, while all goes well."""
        while True:
            output = self._output_descriptor()
            ready, _, _ = select.select([0, self._signals.reader, *output], [], [], 1.0 if self._is_ready else 0.1)
            if signal.SIGTERM in self._signals.take():
                return
            if 0 in ready:
                data = os.read(0, 65536)
                if not data:
                    return
                *lines, self._input = (self._input + data).split(b"\n")
                yield from map(json.loads, lines)
            if os.getppid() != self._parent:  # a copy of the pipe may live on in what was forked there
                return
            if set(output) & set(ready):
                self._read(output[0])
            self._watch()

    def _output_descriptor(self) -> list[int]:
        return [] if self._ray is None or self._ray.stdout is None else [self._ray.stdout.fileno()]

    def _watch(self) -> None:
        if self._ray is not None and self._ray.poll() is not None:
            [output] = self._output_descriptor()
            while select.select([output], [], [], 0)[0] and self._read(output):  # others may hold it open
                pass
            raise self._ending(self._ray.returncode)
        if time.monotonic() > self._deadline and not self._is_ready:
            raise Failure(f"it did not start within {self._spec['seconds']:g} s", needs_log=True)

    def _read(self, output: int) -> bool:
        """Whether there was something."""
        data = os.read(output, 65536)
        *lines, self._output = (self._output + data).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            self._log.append(text[-_LINE_LENGTH:])
            self._lost = self._lost or _LOST.search(text)
            if _STARTED in text and not self._is_ready:
                self._is_ready = True
                raylet = next((pid for pid in descendants() if name_of(pid) == "raylet"), 0)
                self.tell("ready", ip=self._address, port=self._port, pid=os.getpid(), raylet=raylet)
        return bool(data)

    def _ending(self, code: int) -> Failure:
        """`ray start` stays until one of its processes ends, and says which."""
        if self._lost:
            lost = int(self._lost[2])
            return Failure(f"its {self._lost[1]} {ending(lost)}", needs_log=lost > 0)
        return Failure(f"`ray start` {ending(code)}", needs_log=not self._is_ready)

    # Up

    def _follow(self, line: dict[str, Any]) -> None:
        if self._folder is None:
            self._spec = line
            self._folder = PrivateFolder()
            self.tell("here", host=socket.gethostname(), name=self._name, folder=str(self._folder.path))
            self._ray = self._import_ray(self._folder)
        if not self._is_started and (self.index == 0 or "address" in line):
            self._start(line.get("address"), self._folder)

    @property
    def _name(self) -> str:
        return os.environ.get("SLURMD_NODENAME") or str(self._spec["names"][self.index])

    def _import_ray(self, folder: PrivateFolder) -> subprocess.Popen[bytes]:
        environment = {
            **environment_of_node(os.environ),
            **self._spec["environment"],
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder.write_secret(TOKEN, self._spec["token"])),
            MARK_VARIABLE: self._spec["mark"],
            DATA_VARIABLE: str(folder.path),
        }
        return subprocess.Popen(
            [sys.executable, "-P", "-c", _RAY_START],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=leaving_with(os.getpid()),
        )

    def _start(self, head: str | None, folder: PrivateFolder) -> None:
        assert self._ray is not None
        assert self._ray.stdin is not None
        self._is_started = True
        self._deadline = time.monotonic() + self._spec["seconds"]
        self._address = own_address(head.rpartition(":")[0] if head else None)
        options = [*self._options(folder), *(["--address", head] if head else self._leading())]
        with suppress(OSError), self._ray.stdin as stdin:
            stdin.write("\0".join(options).encode())

    def _options(self, folder: PrivateFolder) -> list[str]:
        cpus = self._spec["cpus"][self.index] or num_cpus(os.environ)
        gpus = num_gpus(os.environ) if self._spec["gpus"] is None else self._spec["gpus"]
        return [
            *("--block", "--disable-usage-stats", "--num-cpus", str(cpus)),
            *([] if gpus is None else ["--num-gpus", str(gpus)]),
            *("--node-ip-address", self._address, "--node-name", self._name, "--temp-dir", str(folder.path / _RAY)),
            *("--min-worker-port", "0", "--max-worker-port", "0"),
            *("--include-log-monitor", "true" if self._spec["logs"] else "false"),
            *self._store(folder),
        ]

    def _store(self, folder: PrivateFolder) -> list[str]:
        size, place = object_store(self._spec["store"], folder.path)
        if place is None:
            return ["--object-store-memory", str(size)]
        self.tell(
            "note", text=f"there is too little shared memory; Ray holds objects in {place.parent}, which is slower"
        )
        return ["--object-store-memory", str(size), "--plasma-directory", str(place)]

    def _leading(self) -> list[str]:
        self._port, client = free_port(), free_port()  # Ray would take 10001 for the second
        return [
            *("--head", "--port", str(self._port), "--ray-client-server-port", str(client)),
            *("--include-dashboard", "false", "--no-monitor"),
        ]


def main(argv: list[str]) -> None:
    adopt_orphans()
    with CaughtSignals(_CAUGHT) as signals:
        Node(int(argv[0] if argv else os.environ["SLURM_PROCID"]), signals).run()


if __name__ == "__main__":
    main(sys.argv[1:])
