"""`scaledl doctor` on one process, and on ranks one of which is slow, frozen or not there."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

Call = Callable[..., Any]
Process = subprocess.Popen[str]
Machines = Callable[..., list[Process]]
Start = Callable[..., list[Process]]

# The doctor with less patience than it has
PROGRAM = """
import sys
from scaledl.doctor import ring, together
ring.ANSWER_SECONDS = together.ANSWER_SECONDS = 3.0
together.MEET_SECONDS = float(sys.argv[1])
from scaledl.cli import main
sys.exit(main(["doctor", *sys.argv[2:]]))
"""


@pytest.fixture
def start() -> Iterator[Start]:
    """`start(3, "--seconds", "4")` starts the doctor as ranks on this machine."""
    children: list[Process] = []

    def run(
        world_size: int, *arguments: str, ranks: Sequence[int] | None = None, meet_seconds: float = 120.0
    ) -> list[Process]:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        shared = {
            "WORLD_SIZE": world_size,
            "LOCAL_WORLD_SIZE": world_size,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        for rank in range(world_size) if ranks is None else ranks:
            own = {**shared, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": 1}
            environment = {**os.environ, **{key: str(value) for key, value in own.items()}}
            pipe, command = subprocess.PIPE, [sys.executable, "-c", PROGRAM, str(meet_seconds), *arguments]
            children.append(subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True))
        return children

    yield run
    for child in children:
        child.kill()
        child.communicate()


def checks_of(rank_0: Process) -> dict[str, tuple[str, str]]:
    """Name -> verdict and what was found."""
    out, err = rank_0.communicate(timeout=180)
    assert out, err
    return {check["name"]: (check["verdict"], check["what"]) for check in json.loads(out)["checks"]}


def until_it_measures(rank_0: Process) -> None:
    assert rank_0.stderr is not None
    for line in rank_0.stderr:
        if "measuring the network" in line:
            return
    pytest.fail("the network is not measured")


def assert_silent(others: list[Process]) -> None:
    for other in others:
        out, err = other.communicate(timeout=60)
        assert out == ""
        assert [line for line in err.splitlines() if "error" in line.lower() and "[c10d]" not in line] == []


def test_one_process(call: Call, tmp_path: Path) -> None:
    done = call(tmp_path, "doctor", "--json")
    found = json.loads(done.out)
    names = [check["name"] for check in found["checks"]]
    assert names[:4] == ["environment", "python", "packages", "processors"]
    assert names[-1] == "storage"
    assert done.code == (0 if found["ok"] else 1)
    assert all(check["fix"] for check in found["checks"] if check["verdict"] != "ok")
    assert list(tmp_path.iterdir()) == []


def test_as_text_it_says_how_the_network_is_measured(call: Call, tmp_path: Path) -> None:
    done = call(tmp_path, "doctor")
    assert "ok    python" in done.out
    assert "`srun scaledl doctor`" in done.out


@pytest.mark.parametrize("seconds", ["0", "-1", "x", "1e3"])
def test_seconds_are_checked(call: Call, tmp_path: Path, seconds: str) -> None:
    done = call(tmp_path, "doctor", f"--seconds={seconds}")
    assert (done.code, done.out) == (2, "")
    assert "--seconds: got" in done.err


def test_a_job_without_srun_fails_with_the_fix(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_NNODES": "2"}.items():
        monkeypatch.setenv(name, value)
    done = call(tmp_path, "doctor", "--json")
    first = json.loads(done.out)["checks"][0]
    assert (done.code, first["name"], first["verdict"]) == (1, "environment", "fail")
    assert "srun scaledl" in first["fix"]


def test_a_folder_that_cannot_be_written_fails(
    call: Call, tmpfs: Callable[[str], Path], remount: Callable[[Path, str], None]
) -> None:
    folder = tmpfs("600m")
    remount(folder, "ro")
    done = call(folder, "doctor", "--json")
    storage = json.loads(done.out)["checks"][-1]
    assert (done.code, storage["verdict"]) == (1, "fail")
    assert storage["what"].startswith(f"cannot write into {folder}: the filesystem is read-only")


def test_a_full_disk_fails_without_being_filled_up(call: Call, tmpfs: Callable[[str], Path]) -> None:
    folder = tmpfs("4m")
    done = call(folder, "doctor", "--json")
    storage = json.loads(done.out)["checks"][-1]
    assert (done.code, storage["verdict"]) == (1, "fail")
    assert storage["what"] == f"{folder}: 0.0 GiB free"


def test_ranks_measure_the_network_and_only_the_first_speaks(start: Start, tmp_path: Path) -> None:
    first, *others = start(3, "--json", "--seconds", "3", "--root", str(tmp_path))
    found = checks_of(first)
    assert_silent(others)
    assert first.returncode == (1 if "fail" in [verdict for verdict, _ in found.values()] else 0)
    for name in ("same software", "host names", "clocks", "shared folder", "all-reduce"):
        assert found[name][0] == "ok", found[name]
    assert found["links"][0] != "fail"
    assert "among 3 ranks" in found["all-reduce"][1]
    assert list(tmp_path.iterdir()) == []


def test_a_rank_that_stands_still_for_a_while_is_named(start: Start, tmp_path: Path) -> None:
    first, _, third = start(3, "--json", "--seconds", "6", "--root", str(tmp_path))
    until_it_measures(first)
    time.sleep(1)
    third.send_signal(signal.SIGSTOP)
    time.sleep(2)
    third.send_signal(signal.SIGCONT)
    verdict, what = checks_of(first)["pauses"]
    assert verdict == "warn"
    assert what.startswith(f"rank 2 ({socket.gethostname()}) stood still for ")


def test_a_rank_that_does_not_answer_is_named(start: Start, tmp_path: Path) -> None:
    first, second, third, fourth = start(4, "--json", "--seconds", "4", "--root", str(tmp_path))
    until_it_measures(first)
    third.send_signal(signal.SIGSTOP)
    found = checks_of(first)
    told = found.get("all-reduce", found["links"])
    assert told[0] == "fail"
    assert told[1].startswith("rank 2 on ")
    assert " did not answer within " in told[1]
    assert first.returncode == 1
    assert_silent([second, fourth])


def test_a_rank_that_never_comes_is_named(start: Start, tmp_path: Path) -> None:
    [first] = start(2, "--json", "--root", str(tmp_path), ranks=[0], meet_seconds=3)
    found = checks_of(first)
    assert first.returncode == 1
    assert found["ranks"] == ("fail", f"rank 1 on {socket.gethostname()} did not appear within 3 s")
    assert found["python"][0] == "ok"  # this machine is looked at all the same


def test_a_node_with_a_slow_network_is_named(machines: Machines, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, "120", "--json", "--seconds", "6", "--root", str(tmp_path)]
    variables = {
        "MASTER_ADDR": "10.213.0.1",
        "MASTER_PORT": "29512",
        "GLOO_SOCKET_IFNAME": "eth0",
        "OMP_NUM_THREADS": "1",
    }
    slow = {2: "tbf rate 40mbit burst 32kbit latency 400ms"}
    first, *_ = machines(command, 3, variables, slow)
    verdict, what = checks_of(first)["links"]
    assert verdict == "warn"
    assert what.startswith("n2 is slow: ")
    assert " the median of all is " in what
    assert "n1" not in what
    assert "n3" not in what


def test_names_on_the_loopback_are_told_instead_of_a_hang(machines: Machines, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, "120", "--json", "--seconds", "3", "--root", str(tmp_path)]
    variables = {"MASTER_ADDR": "10.213.0.1", "MASTER_PORT": "29513", "OMP_NUM_THREADS": "1"}
    first, _ = machines(command, 2, variables)
    found = checks_of(first)
    assert found["host names"][0] == "fail"
    assert "GLOO_SOCKET_IFNAME=eth0" in found["host names"][1]
    assert "links" not in found
