"""Real processes that look for each other: on free ports and taken ones, beside others, late, and not at all."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch  # noqa: F401  the children are forks that have it

from scaledl.distributed.environment import ClusterSpec
from scaledl.distributed.hello import candidate_ports
from scaledl.distributed.rendezvous import open_store
from scaledl.errors import ScaledlError, UsageError

pytestmark = pytest.mark.integration

Ranks = Callable[..., dict[int, Any]]
Rank = Callable[..., ClusterSpec]


def meet(seconds: float = 20.0, delays: Sequence[float] = (0.0, 0.0, 0.0, 0.0)) -> Callable[[ClusterSpec], list[str]]:
    """What a rank does: come together with the others, and exchange one value over the store."""

    def run(spec: ClusterSpec) -> list[str]:
        time.sleep(delays[spec.rank])
        store = open_store(spec, seconds)
        store.set(f"value/{spec.rank}", str(spec.rank))
        values = [store.get(f"value/{rank}").decode() for rank in range(spec.world_size)]
        store.set(f"done/{spec.rank}", "")
        store.wait([f"done/{rank}" for rank in range(spec.world_size)])  # rank 0 holds the store
        time.sleep(0.2 if spec.rank == 0 else 0)
        return values

    return run


@contextmanager
def listening(port: int, speak: Callable[[socket.socket], None] | None = None) -> Iterator[int]:
    """Somebody else on this port, who accepts and says something, or nothing."""
    server = socket.create_server(("127.0.0.1", port))
    held: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            held.append(connection)
            if speak is not None:
                with connection:
                    speak(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()
        for connection in held:
            connection.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def assert_together(answers: dict[int, Any]) -> None:
    expected = [str(rank) for rank in range(len(answers))]
    assert {rank: answer.error for rank, answer in answers.items()} == dict.fromkeys(answers, "")
    assert all(answer.value == expected for answer in answers.values())


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_find_each_other_without_a_port(run_ranks: Ranks, rank_of: Rank, world_size: int) -> None:
    assert_together(run_ranks(meet(), [rank_of(rank, world_size) for rank in range(world_size)]))


@pytest.mark.parametrize("delays", [(1.0, 0.0), (0.0, 1.0)])
def test_whoever_comes_first_waits(run_ranks: Ranks, rank_of: Rank, delays: Sequence[float]) -> None:
    assert_together(run_ranks(meet(delays=delays), [rank_of(0), rank_of(1)]))


def silent(connection: socket.socket) -> None:
    time.sleep(3)


def chatty(connection: socket.socket) -> None:
    """Without an end to a line, for longer than anybody should listen."""
    connection.settimeout(5)
    for _ in range(200):
        try:
            connection.sendall(b"220 mail ready " * 100)
        except OSError:
            return


def neighbour(connection: socket.socket) -> None:
    """Rank 0 of another job."""
    connection.sendall(b"scaledl-hello slurm-18.0-r0 4711\n")


def liar(connection: socket.socket) -> None:
    connection.sendall(f"scaledl-hello test-{os.getpid()} 99999\n".encode())


@pytest.mark.parametrize("speak", [None, silent, chatty, neighbour, liar])
def test_a_port_that_somebody_else_has_is_passed_over(
    run_ranks: Ranks, rank_of: Rank, speak: Callable[[socket.socket], None] | None
) -> None:
    with listening(candidate_ports(rank_of(0).launch_id)[0], speak):
        assert_together(run_ranks(meet(), [rank_of(0), rank_of(1)]))


def test_two_steps_of_one_job_do_not_meet(run_ranks: Ranks, rank_of: Rank) -> None:
    specs = [rank_of(rank, launch_id=f"slurm-17.{step}-r0") for step in range(2) for rank in range(2)]

    def meet_in_step(spec: ClusterSpec) -> str:
        store = open_store(spec, 20)
        if spec.rank == 0:
            store.set("launch", spec.launch_id)
            store.wait(["heard"])
            time.sleep(0.2)
            return spec.launch_id
        launch = store.get("launch").decode()
        store.set("heard", "")
        return launch

    answers = run_ranks(meet_in_step, specs)
    assert [answer.value for answer in answers.values()] == [spec.launch_id for spec in specs]


def test_all_ports_taken_is_said(rank_of: Rank) -> None:
    spec = rank_of(0)
    held = [socket.create_server(("127.0.0.1", port)) for port in candidate_ports(spec.launch_id)]
    try:
        with pytest.raises(ScaledlError, match=rf"are in use on .*by process {os.getpid()} \(.*set MASTER_PORT"):
            open_store(spec, 5)
    finally:
        for server in held:
            server.close()


def test_a_fixed_port_in_use_names_its_owner(rank_of: Rank) -> None:
    with listening(0) as port, pytest.raises(UsageError) as caught:
        open_store(rank_of(0, master_port=port), 60)
    said = f"MASTER_PORT: {port} is in use on {socket.gethostname()} by process {os.getpid()} ("
    assert str(caught.value).startswith(said)
    assert "name a free one" in str(caught.value)


def test_a_fixed_port_is_used(run_ranks: Ranks, rank_of: Rank) -> None:
    specs = [rank_of(rank, master_port=free_port(), launcher="env", nodes=()) for rank in range(2)]
    specs = [replace(spec, master_port=specs[0].master_port) for spec in specs]
    assert_together(run_ranks(meet(delays=(0.5, 0.0)), specs))


def test_a_stranger_on_the_fixed_port_holds_nobody_beyond_the_timeout(run_ranks: Ranks, rank_of: Rank) -> None:
    with listening(0) as port:
        [answer] = run_ranks(meet(2), [rank_of(1, master_port=port, launcher="env", nodes=())]).values()
    assert answer.code == 1
    assert f"port {port} through lo: something listens there, but it does not speak as a store" in answer.error
    assert answer.seconds < 10


def test_missing_ranks_are_named_by_rank_0_and_all_end_alike(run_ranks: Ranks, rank_of: Rank) -> None:
    first, third = run_ranks(meet(2), [rank_of(0, 4), rank_of(2, 4)]).values()
    assert first.error == "rank 1 on n2 and rank 3 on n4 did not appear within 2 s"
    assert (third.error, first.told, third.told) == (first.error, False, True)
    assert (first.code, third.code) == (1, 1)


def test_a_missing_rank_0_is_told_with_address_and_ports(run_ranks: Ranks, rank_of: Rank) -> None:
    spec = rank_of(1)
    [answer] = run_ranks(meet(2), [spec]).values()
    first = candidate_ports(spec.launch_id)[0]
    assert answer.error.startswith(f"rank 1 on n2 could not reach rank 0 at 127.0.0.1, ports {first}, ")
    assert "through lo: connection refused" in answer.error
    assert "means this machine itself: correct /etc/hosts" in answer.error
    assert answer.code == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nodes": ()}, r"MASTER_ADDR: got 'no-such-host\.invalid', which does not resolve on"),
        ({"nodes": ("no-such-host.invalid", "n2")}, r"the job's first node, where rank 0 runs: got 'no-such-host"),
    ],
)
def test_an_unresolvable_master_is_told_at_once(rank_of: Rank, changes: dict[str, Any], said: str) -> None:
    for rank in range(2):
        begin = time.monotonic()
        with pytest.raises(UsageError, match=said + r".*; set MASTER_ADDR to the IP address"):
            open_store(rank_of(rank, master_addr="no-such-host.invalid", **changes), 600)
        assert time.monotonic() - begin < 60


def test_a_node_that_only_slurm_can_address_is_found(
    run_ranks: Ranks, rank_of: Rank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scontrol = tmp_path / "scontrol"
    answer = "NodeName=only-in-slurm NodeAddr=127.0.0.1 NodeHostName=x"
    scontrol.write_text(f'#!/bin/sh\n[ "$2 $3 $4" = "show node only-in-slurm" ] && echo "{answer}"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    nodes = ("only-in-slurm", "n2")
    assert_together(run_ranks(meet(), [rank_of(rank, master_addr=nodes[0], nodes=nodes) for rank in range(2)]))


def test_a_stop_signal_ends_the_wait() -> None:
    code = """if True:
        import os, sys
        from scaledl.distributed.preemption import stop_flag
        stop_flag.install()
        from scaledl.distributed.environment import detect_cluster
        from scaledl.distributed.rendezvous import open_store
        from scaledl.errors import Preempted
        print("waiting", flush=True)
        try:
            open_store(detect_cluster(os.environ), 60)
        except Preempted as stop:
            print(stop)
    """
    ranks = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    ranks["MASTER_PORT"] = str(free_port())
    child = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, **ranks}, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "waiting\n"
    time.sleep(0.5)
    child.send_signal(signal.SIGTERM)
    out, _ = child.communicate(timeout=30)
    assert out == "stopped by SIGTERM; training had not begun\n"


TORCHRUN_PROGRAM = """
import os, sys
from scaledl.distributed.environment import detect_cluster
from scaledl.distributed.rendezvous import open_store
spec = detect_cluster(os.environ)
assert os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "True"
store = open_store(spec, 60)
assert not store.check(["old/0"]) or spec.restart == 0, "what an earlier start put there is seen"
store.set(f"old/{spec.restart}", "")
store.set(f"done/{spec.rank}", "")
store.wait([f"done/{rank}" for rank in range(spec.world_size)])
if spec.restart == 0:
    sys.exit(1)
print(f"rank {spec.rank} of {spec.world_size}, restart {spec.restart}\\n", end="", flush=True)
"""


def test_under_torchrun_each_restart_begins_afresh_in_the_agents_store(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(TORCHRUN_PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(program)], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["rank 0 of 2, restart 1", "rank 1 of 2, restart 1"]
