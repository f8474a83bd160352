"""Finding rank 0's store where no port was fixed: it says hello, by the name of the launch, on one of a few ports.

A greeting is one short line of text that is sent to whoever connects. Nothing is read from them, so nobody can hold it
up; who connects reads no more than a line and waits no longer than a moment, whatever listens there.
"""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

NUM_CANDIDATES = 16
_PORTS = range(20_000, 32_768)  # below those that outgoing connections take by themselves
_MAGIC = "scaledl-hello"
_LINE_BYTES = 256
_PATIENCE_SECONDS = 2.0


def candidate_ports(launch_id: str) -> list[int]:
    """The ports to meet on, the same for all ranks of a launch, others for another job or step."""
    ports: dict[int, None] = {}
    count = 0
    while len(ports) < NUM_CANDIDATES:
        digest = hashlib.sha256(f"{launch_id}/{count}".encode()).digest()
        ports[_PORTS[int.from_bytes(digest[:8], "big") % len(_PORTS)]] = None
        count += 1
    return list(ports)


class Hello:
    """A context in which whoever connects to `listener` is told the launch and the port of its store."""

    def __init__(self, listener: socket.socket, launch_id: str, store_port: int) -> None:
        self._listener = listener
        self._line = f"{_MAGIC} {launch_id} {store_port}\n".encode()
        self._thread = threading.Thread(target=self._serve, name="scaledl-hello", daemon=True)

    def __enter__(self) -> Hello:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread out of accept
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except ConnectionAbortedError:
                continue
            except OSError:
                return
            with connection, suppress(OSError):
                connection.setblocking(False)  # a line fits into any buffer
                connection.send(self._line)


def ask(address: str, ports: Sequence[int], launch_id: str, deadline: float) -> tuple[int | None, str]:
    """One round over the ports: that of the store, if the launch was met on one of them, and what went wrong last."""
    problem = ""
    for port in ports:
        patience = min(_PATIENCE_SECONDS, deadline - time.monotonic())
        if patience <= 0:
            break
        try:
            with socket.create_connection((address, port), timeout=patience) as connection:
                found = _store_port(_read_line(connection, time.monotonic() + patience), launch_id)
        except TimeoutError:
            return None, "no answer"  # a port that is only closed says so at once: the whole host is silent
        except OSError as error:
            problem = (error.strerror or str(error)).lower()
            continue
        if found is not None:
            return found, ""
        problem = "something else answers there"
    return None, problem


def _read_line(connection: socket.socket, deadline: float) -> bytes:
    """Up to the end of the line, the limit, or the deadline: what listens there may say anything, and never end."""
    line = b""
    while b"\n" not in line and len(line) < _LINE_BYTES:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        connection.settimeout(left)
        try:
            more = connection.recv(_LINE_BYTES - len(line))
        except OSError:
            break
        if not more:
            break
        line += more
    return line


def _store_port(line: bytes, launch_id: str) -> int | None:
    """
    >>> _store_port(b"scaledl-hello 17.0 4000\\n", "17.0"), _store_port(b"scaledl-hello 18.0 4000\\n", "17.0")
    (4000, None)
    """
    words = line.decode("ascii", "replace").split(" ")
    if not line.endswith(b"\n") or len(words) != 3 or words[:2] != [_MAGIC, launch_id]:
        return None
    text = words[2].strip()
    return int(text) if text.isdecimal() and len(text) < 6 and 0 < int(text) < 65536 else None
