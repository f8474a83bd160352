"""The same command on several hosts over ssh: `python -m scaledl.launch.hosts HOSTS -- COMMAND ...`

HOSTS is `h1,h2`, `h1:4,h2:4` (ranks on each) or a hostfile with a line `HOST [slots=N]` each. In COMMAND stand
{node_rank}, {num_nodes}, {master_addr}, {master_port} and {nproc}. The hosts share the filesystem: the same folder and
the same Python there. Variables: SCALEDL_SSH (the ssh command, `ssh -p 2222`), NPROC (ranks on each host), MASTER_PORT,
MASTER_ADDR (of the first host, where the others know it by another name).
"""

from __future__ import annotations

import os
import secrets
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import TimeoutExpired

from scaledl.console import get_console
from scaledl.distributed.signals import CaughtSignals
from scaledl.errors import ScaledlError, UsageError
from scaledl.launch.host_list import Host, parse_hosts
from scaledl.launch.ssh import Connection, check_hosts, remote_command

PING_SECONDS = 5.0
LEAVE_SECONDS = 75.0  # of the other hosts, when one has ended badly: longer than a supervisor waits
_CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)


def filled(command: Sequence[str], values: Mapping[str, object]) -> list[str]:
    """The command with its placeholders filled in; other braces are the user's.

    >>> filled(["--node-rank={node_rank}", "model={family: mlp}"], {"node_rank": 1})
    ['--node-rank=1', 'model={family: mlp}']
    """
    words = list(command)
    for name, value in values.items():
        words = [word.replace("{" + name + "}", str(value)) for word in words]
    return words


def run_everywhere(hosts: Sequence[Host], command: Sequence[str]) -> int:
    """Run until all have ended; when one fails or the user stops it, all stop. Returns the exit code for all."""
    folder, python = Path.cwd(), sys.executable
    port = check_hosts(hosts, folder, python)
    environ = {"SCALEDL_LAUNCH_ID": secrets.token_hex(8), **os.environ}
    shared = {
        "num_nodes": len(hosts),
        "master_addr": os.environ.get("MASTER_ADDR") or hosts[0].name.rpartition("@")[2],
        "master_port": os.environ.get("MASTER_PORT") or port,
    }
    connections: list[Connection] = []
    with CaughtSignals(_CAUGHT) as signals:
        try:
            for rank, host in enumerate(hosts):
                values = {**shared, "node_rank": rank, "nproc": host.slots or os.environ.get("NPROC") or "devices"}
                words = filled(command, values)
                connections.append(Connection(host, remote_command(words, environ, folder, python)))
            return _watch(connections, signals)
        finally:
            for connection in connections:
                connection.close()
            for connection in connections:
                _see_off(connection)


def _watch(connections: Sequence[Connection], signals: CaughtSignals) -> int:
    """The exit code of the first host that failed, which the others then have to follow."""
    verdict, deadline, ping_at = 0, float("inf"), 0.0
    while any(connection.code is None for connection in connections) and time.monotonic() < deadline:
        failed = [connection for connection in connections if connection.code]
        if failed and not verdict:
            verdict = _blame(failed[0])
            deadline = time.monotonic() + LEAVE_SECONDS
            _tell(connections, "SIGTERM")
        if time.monotonic() >= ping_at:
            ping_at = time.monotonic() + PING_SECONDS
            _tell(connections, "ping")
        select.select([signals.reader], [], [], min(1.0, PING_SECONDS))
        for signum in signals.take():
            if signum != signal.SIGCHLD:
                _tell(connections, signal.Signals(signum).name)
    return verdict or next((_blame(connection) for connection in connections if connection.code), 0)


def _tell(connections: Sequence[Connection], word: str) -> None:
    for connection in connections:
        if connection.code is None:
            connection.say(word)


def _blame(connection: Connection) -> int:
    """255 is ssh's own: the connection, not the command."""
    code = connection.code or 0
    if code in (255, -signal.SIGKILL):
        get_console().error(f"{connection.host.name}: the ssh connection ended; all hosts stop")
        return 1
    return 128 - code if code < 0 else code


def _see_off(connection: Connection) -> None:
    with suppress(TimeoutExpired):
        connection.process.wait(10)
    connection.process.kill()
    connection.process.wait()


def main(argv: Sequence[str]) -> int:
    try:
        if len(argv) < 3 or argv[1] != "--":
            raise UsageError("usage: python -m scaledl.launch.hosts HOSTS -- COMMAND ...")
        return run_everywhere(parse_hosts(argv[0]), argv[2:])
    except ScaledlError as error:
        get_console().error(str(error))
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
