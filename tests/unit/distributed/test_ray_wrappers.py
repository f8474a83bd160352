"""The driver's side of the wrappers, with stand-ins that tell, fail and die as a test wants it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scaledl.distributed.ray import wrappers
from scaledl.distributed.ray.wrappers import Wrappers
from scaledl.errors import ScaledlError, UsageError

pytestmark = pytest.mark.unit

# Tells what its first argument says, then waits for the end of the lifeline.
STAND_IN = """\
import json, os, sys
spec = json.loads(sys.stdin.readline())
for event in json.loads(sys.argv[1]):
    sys.stdout.write(json.dumps(event) + "\\n" if event != "rubbish" else "rubbish\\n")
sys.stdout.flush()
sys.stderr.write(sys.argv[2])
sys.stderr.flush()
if sys.argv[3] != "stay":
    os._exit(int(sys.argv[3]))
sys.stdin.read()
"""


def ready(node: int) -> dict[str, object]:
    return {"event": "ready", "node": node, "ip": "10.0.0.1", "port": 7, "pid": 1, "raylet": 2}


def stand_in(*events: object, error: str = "", end: str = "stay") -> list[str]:
    return [sys.executable, "-I", "-c", STAND_IN, json.dumps(events), error, end]


Open = Callable[..., Wrappers]


@pytest.fixture
def start() -> Iterator[Open]:
    opened: list[Wrappers] = []

    def start(*commands: list[str], names: tuple[str, ...] = ("n1", "n2")) -> Wrappers:
        opened.append(Wrappers(commands, names, os.environ))
        opened[-1].start(cpus=[1] * len(names))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def test_all_that_are_ready_make_a_ray(start: Open) -> None:
    here = {"event": "here", "node": 0, "host": "h", "name": "first", "folder": "/nowhere"}
    found = start(stand_in(here, "rubbish", ready(0)), stand_in(ready(1)))
    assert (found.address, found.token_file) == ("10.0.0.1:7", "/nowhere/token")
    assert [node.name for node in found.nodes] == ["first", "n2"]
    assert found.fail_reason() is None


def test_one_process_may_speak_for_all(start: Open) -> None:
    found = start(stand_in(ready(1), ready(0)))
    assert found.fail_reason() is None


@pytest.mark.parametrize(("usage", "kind"), [(True, UsageError), (False, ScaledlError)])
def test_a_node_that_fails_is_named_with_what_it_wrote(usage: bool, kind: type[ScaledlError], start: Open) -> None:
    log = {"event": "log", "node": 1, "line": "no port"}
    failed = {"event": "failed", "node": 1, "message": "it did not start", "usage": usage}
    with pytest.raises(ScaledlError) as caught:
        start(stand_in(ready(0)), stand_in(log, failed))
    assert type(caught.value) is kind
    assert str(caught.value) == "Ray on n2: it did not start; last lines: no port"


def test_a_process_that_ends_without_a_word_is_named_with_its_errors(start: Open) -> None:
    with pytest.raises(ScaledlError) as caught:
        start(stand_in(ready(0)), stand_in(error="No module named scaledl\n", end="1"))
    assert str(caught.value) == (
        "Ray on n2: the process that watches it ended with exit code 1; last lines: No module named scaledl"
    )


def test_what_srun_tells_of_a_task_is_told_of_its_node(start: Open) -> None:
    text = "srun: error: h: task 1: Exited with exit code 1\n"
    with pytest.raises(ScaledlError, match=r"^Ray on n2: the process that watches it ended: Exited with exit code 1"):
        start(stand_in(ready(0), error=text))
    with pytest.raises(ScaledlError, match=r"^Ray on n1: .* ended: Killed; Ray on n2: .* ended: Killed"):
        start(stand_in(error="srun: error: h: tasks 0-1: Killed\n"))


def test_a_node_that_is_lost_later_is_told_and_the_head_matters_most(start: Open) -> None:
    found = start(stand_in(ready(0)), stand_in(ready(1)))
    os.kill(found._processes[1].pid, signal.SIGKILL)
    wait_for(lambda: found.fail_reason() is not None)
    assert found.fail_reason() == "Ray on n2: the process that watches it was killed by SIGKILL"
    assert found.fail_reason(head_only=True) is None


def test_silence_ends(start: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrappers, "START_SECONDS", 0.2)
    with pytest.raises(ScaledlError, match=r"^Ray on n2: no word within 0\.4 s$"):
        start(stand_in(ready(0)), stand_in())


def test_what_cannot_be_started_is_named() -> None:
    with pytest.raises(ScaledlError, match=r"^/no/such could not be started: No such file or directory$"):
        Wrappers([["/no/such"]], ["n1"], os.environ)


def test_what_does_not_leave_is_killed(start: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrappers, "END_SECONDS", 0.2)
    deaf = [
        sys.executable,
        "-I",
        "-c",
        f"import time\nprint({json.dumps(json.dumps(ready(0)))}, flush=True)\ntime.sleep(60)",
    ]
    found = start(deaf, names=("n1",))
    found.close()
    assert found._processes[0].returncode == -signal.SIGKILL


def test_the_secret_stands_on_no_command_line_and_in_no_environment(start: Open) -> None:
    found = start(stand_in(ready(0)), names=("n1",))
    for name in ("cmdline", "environ"):
        assert found._secret.encode() not in Path(f"/proc/{found._processes[0].pid}/{name}").read_bytes()


def test_a_wrapper_imports_nothing_heavy_and_ends_with_its_lifeline() -> None:
    heavy = "{'torch', 'ray', 'rich', 'numpy', 'pydantic'}"
    code = f"import sys, scaledl.distributed.ray._node; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    ended = subprocess.run([*wrappers.NODE_PROGRAM, "0"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
