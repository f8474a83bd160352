"""Commands on other hosts through ssh: what is run there, and whether a host can be used at all."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from scaledl import __version__
from scaledl.distributed.parent import dying_with
from scaledl.errors import UsageError
from scaledl.launch.host_list import Host

SSH_VARIABLE = "SCALEDL_SSH"
LOCAL = "localhost"  # needs no ssh
_ANSWER_SECONDS = 60.0
_OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15", "-T")
# What a rank's behaviour depends on and ssh does not bring along.
_CARRIED = (
    *("SCALEDL_", "NCCL_", "GLOO_", "TORCH_", "TORCHELASTIC_", "DS_", "OMP_", "MKL_", "CUDA_", "HF_"),
    *("PYTHONPATH", "LD_LIBRARY_PATH"),
)


def remote_command(command: Sequence[str], environ: Mapping[str, str], folder: Path, python: str) -> str:
    """What the other host's shell is to run: here, with this environment, under a supervisor."""
    words = [python, "-P", "-m", "scaledl.launch.supervise", "--connection", "--", *command]
    return plain_command(words, environ, folder, python)


def plain_command(command: Sequence[str], environ: Mapping[str, str], folder: Path, python: str) -> str:
    """The same without a supervisor."""
    carried = {name: value for name, value in environ.items() if name.startswith(_CARRIED) and name != SSH_VARIABLE}
    settings = [f"{name}={value}" for name, value in sorted(carried.items())]
    binaries = shlex.quote(str(Path(python).parent))
    command_line = (
        f'cd {shlex.quote(str(folder))} && PATH={binaries}:"$PATH" exec env {shlex.join([*settings, *command])}'
    )
    return f"exec sh -c {shlex.quote(command_line)}"  # whatever the login shell is


def shell_of(host: Host, command: str) -> list[str]:
    """The words that run a shell command on a host."""
    if host.name == LOCAL:
        return ["/bin/sh", "-c", command]
    return [*shlex.split(os.environ.get(SSH_VARIABLE, "ssh")), *_OPTIONS, "--", host.name, command]


class Connection:
    """One host on which the command runs."""

    def __init__(self, host: Host, command: str) -> None:
        self.host = host
        self.process = subprocess.Popen(
            shell_of(host, command),
            stdin=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=dying_with(os.getpid()),
        )

    @property
    def code(self) -> int | None:
        return self.process.poll()

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        with suppress(OSError, ValueError):
            self.process.stdin.write(word.encode() + b"\n")
            self.process.stdin.flush()

    def close(self) -> None:
        """Hang up: the supervisor there ends all."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()


def check_hosts(hosts: Sequence[Host], folder: Path, python: str) -> int:
    """A free port of the first host. Raises UsageError that names each host that cannot be used, and why."""
    with ThreadPoolExecutor(min(32, len(hosts))) as pool:
        answers = list(pool.map(lambda host: _ask(host, folder, python), hosts))
    problems = [problem for problem, _ in answers if problem]
    if problems:
        raise UsageError("; ".join(problems))
    return answers[0][1]


_QUESTION = """\
import socket, sys
from scaledl import __version__
probe = socket.socket()
probe.bind(("", 0))
print("scaledl", __version__, probe.getsockname()[1])
"""


def _ask(host: Host, folder: Path, python: str) -> tuple[str, int]:
    """What is wrong with a host, if anything, and a free port there."""
    where = shlex.quote(str(folder))
    command = f"cd {where} && exec {shlex.join([python, '-P', '-c', _QUESTION])}"
    try:
        done = subprocess.run(
            shell_of(host, command), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
    except subprocess.TimeoutExpired:
        return f"{host.name}: no answer over ssh within 60 s", 0
    except OSError as error:
        return f"{SSH_VARIABLE}: {shell_of(host, '')[0]} cannot be started: {error.strerror}", 0
    answer = re.search(r"^scaledl (\S+) (\d+)$", done.stdout, re.MULTILINE)
    if answer is None:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        fix = f"`{shlex.join(shell_of(host, 'true'))}` has to work without a question" if done.returncode == 255 else ""
        fix = fix or f"it needs the folder {folder} and {python}, as here"
        return f"{host.name}: {last}; {fix}", 0
    if answer[1] != __version__:
        return f"{host.name}: has scaledl {answer[1]}, here it is {__version__}; give all hosts the same", 0
    return "", int(answer[2])
