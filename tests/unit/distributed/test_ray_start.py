"""What is refused before anything starts: no Ray, no job, no srun, and addresses that cannot be used."""

from __future__ import annotations

import importlib.util
import os
import socket
import time
from typing import Any

import pytest

from scaledl.distributed.ray import existing_ray, in_allocation, probe, ray_over_allocation, require_ray, start
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _has_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "require_ray", lambda: None)


def connect(address: str) -> str:
    with pytest.raises(UsageError) as caught, existing_ray(address):
        pass
    return str(caught.value)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"ray is not installed; install it with: pip install 'scaledl\[tune\]'"):
        require_ray()


@pytest.mark.parametrize("address", ["", "n1", "n1:", ":6379", "n1:0", "n1:70000", "ray://n1:10001", "n1:port"])
def test_what_is_no_address_is_refused(address: str) -> None:
    message = connect(address)
    assert message.startswith(f"--address: got {address!r}; allowed: HOST:PORT of the head")


def test_where_nothing_answers_it_is_said_in_seconds() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        started = time.monotonic()
        message = connect(f"127.0.0.1:{port}")
    assert f"--address: nothing answers at 127.0.0.1:{port}: Connection refused" in message
    assert time.monotonic() - started < 2
    assert "nothing answers at nowhere.invalid:6379: " in connect("nowhere.invalid:6379")


OURS = {"ray": "2.60.0", "python": "3.11.7", "nodes": ["127.0.0.1"], "theirs": {}}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"error": "AuthenticationError", "message": "x"}, "refused us: no token was given; set RAY_AUTH_MODE=token"),
        ({"error": "RpcError", "message": "no such method"}, "does not answer as a Ray does: no such method"),
        ({"theirs": {"ray_version": "2.9.0"}}, "runs Ray 2.9.0, but here it is 2.60.0; both have to be the same"),
        ({"theirs": {"python_version": "3.12.1"}}, "runs Python 3.12.1, but here it is 3.11.7"),
        ({"nodes": ["192.0.2.77"]}, "is a Ray of 192.0.2.77, and none of that is this machine"),
    ],
)
def test_a_ray_that_cannot_be_used_says_why(
    said: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setattr(probe, "_ask", lambda address: {**OURS, **said})
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert message in connect(f"127.0.0.1:{server.getsockname()[1]}")


def test_auto_without_any_ray_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_ask", lambda address: {**OURS, "error": "ConnectionError", "message": "x"})
    assert connect("auto").startswith("--address: no Ray runs on this machine; allowed: HOST:PORT of the head")


def test_outside_a_job_it_is_told_how_to_submit_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(UsageError, match=r"SLURM_JOB_ID: not set; .* sbatch slurm/tune.sh"), ray_over_allocation():
        pass


def test_several_nodes_need_srun(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="srun was not found on PATH"), ray_over_allocation():
        pass


def test_workers_of_ray_in_a_job_are_not_the_job() -> None:
    assert in_allocation({"SLURM_JOB_ID": "7"})
    assert not in_allocation({"SLURM_JOB_ID": "7", "RAY_RAYLET_PID": "3"})
    assert not in_allocation({"SLURM_JOB_ID": ""})


def test_the_step_takes_one_task_a_node_whatever_the_job_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    words = start._srun(2, {"SCALEDL_CONTAINER": "apptainer exec 'my image.sif'"})
    assert words[0] == "srun"
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpu-bind=none", "--input=all"} <= set(words)
    program = words.index("apptainer")
    assert words[program : program + 3] == ["apptainer", "exec", "my image.sif"]
    given = {
        "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": "8",
        "SRUN_CPUS_PER_TASK": "4",
        "SLURM_MEM_PER_CPU": "1",
        "PATH": "/bin",
    }
    assert start._step_environment(given) == {"SLURM_JOB_ID": "7", "PATH": "/bin"}
