"""Addresses, interfaces and ports of this machine; names of those who did not come."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from scaledl.distributed import network
from scaledl.distributed.environment import ClusterSpec
from scaledl.distributed.hello import candidate_ports
from scaledl.distributed.missing import describe_missing
from scaledl.distributed.network import addresses_of, interface_towards, is_local, own_address, slurm_address
from scaledl.distributed.port_owner import owner_of_port

pytestmark = pytest.mark.unit


def test_names_and_addresses() -> None:
    assert addresses_of("localhost")[0] == "127.0.0.1"
    assert addresses_of("10.1.2.3") == ["10.1.2.3"]
    for name in ("no-such-host.invalid", "a" * 70, ".."):
        with pytest.raises(OSError, match=r"."):
            addresses_of(name)


def test_a_name_server_that_has_no_answer_now_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def busy(*arguments: object, **options: object) -> object:
        asked.append(arguments)
        if len(asked) < 3:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET6, None, None, "", ("fe80::1", 0)), (socket.AF_INET, None, None, "", ("10.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", busy)
    monkeypatch.setattr(network, "_RETRY_SECONDS", 0.01)
    assert addresses_of("n1") == ["10.0.0.1", "fe80::1"]


def test_what_gloo_would_bind_to(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_local("127.0.0.1")
    assert not is_local("192.0.2.1")
    monkeypatch.setattr(socket, "gethostname", lambda: "no-such-host.invalid")
    assert own_address() == "127.0.0.1"
    monkeypatch.setattr(socket, "gethostname", lambda: "192.0.2.1")  # a name that means another machine
    assert own_address() == "127.0.0.1"


def test_the_way_to_this_machine_is_the_loopback() -> None:
    assert interface_towards("127.0.0.1") == "lo"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("NodeName=n1 Arch=x NodeAddr=10.0.0.7 NodeHostName=n1 Version=22.05", "10.0.0.7"),
        ("NodeName=n1 NodeAddr=n1 NodeHostName=n1", None),
        ("Node n1 not found", None),
        ("", None),
    ],
)
def test_slurms_own_address_of_a_node(
    answer: str, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho '{answer}'\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert slurm_address("n1") == expected


def test_a_scontrol_that_hangs_or_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm_address("n1") is None
    (tmp_path / "scontrol").write_text("#!/bin/sh\nexec /bin/sleep 300\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setattr(network, "SCONTROL_SECONDS", 0.3)
    assert slurm_address("n1") is None


def test_the_owner_of_a_port() -> None:
    code = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    port = int(child.stdout.readline())
    owner = owner_of_port(port)
    child.communicate("\n", timeout=10)
    assert owner.startswith(f"process {child.pid} ({sys.executable} -c import socket")
    assert owner_of_port(port) in ("a process that cannot be seen from here", "a process of another user")


def test_candidate_ports_follow_from_the_launch() -> None:
    ports = candidate_ports("slurm-17.0-r0")
    assert ports == candidate_ports("slurm-17.0-r0")
    assert len(set(ports)) == 16
    assert all(20_000 <= port < 32_768 for port in ports)
    others = [set(candidate_ports(f"slurm-17.{step}-r{restart}")) for step, restart in ((1, 0), (0, 1))]
    assert all(len(other & set(ports)) < 4 for other in others)


SPEC = ClusterSpec(
    launcher="slurm",
    rank=0,
    local_rank=0,
    node_rank=0,
    world_size=6,
    local_world_size=2,
    num_nodes=3,
    nodes=("n1", "n2", "n3"),
    master_addr="n1",
    master_port=None,
    launch_id="x",
    job_id="1",
    restart=0,
)


def came(*places: tuple[int, int]) -> dict[int, dict[str, object]]:
    return {rank: {"node": node, "host": f"host{node}"} for rank, node in places}


@pytest.mark.parametrize(
    ("spec", "here", "said"),
    [
        (SPEC, came((0, 0), (1, 0)), "ranks 2, 3 on n2 and ranks 4, 5 on n3"),
        (SPEC, came((0, 0), (1, 0), (2, 1), (4, 2), (5, 2)), "rank 3 on n2"),
        (SPEC, came((0, 0), (3, 0)), "ranks 1, 2, 4, 5 (nothing was heard from n2, n3)"),
        (
            replace(SPEC, local_world_size=3),
            came((0, 0), (1, 0), (2, 0), (3, 1)),
            "ranks 4, 5 (nothing was heard from n3)",
        ),
        (replace(SPEC, nodes=()), came((0, 0), (1, 0), (2, 1), (4, 2), (5, 2)), "rank 3 on host1"),
        (replace(SPEC, nodes=()), came((0, 0), (1, 0), (2, 1), (3, 1)), "ranks 4, 5 on node 2"),
    ],
)
def test_the_missing_are_named(spec: ClusterSpec, here: dict[int, dict[str, object]], said: str) -> None:
    assert describe_missing(spec, here) == said
