"""Real ranks that compare themselves before training: on one machine, and on two that only have a wire between them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch  # noqa: F401  the children are forks that have it

from scaledl.config import Config
from scaledl.config import replace as replace_keys
from scaledl.distributed import preflight, shared_folder
from scaledl.distributed.environment import ClusterSpec
from scaledl.distributed.preflight import agree, report_of
from scaledl.distributed.rendezvous import open_store

pytestmark = pytest.mark.integration

Ranks = Callable[..., dict[int, Any]]
Rank = Callable[..., ClusterSpec]
Change = Callable[[ClusterSpec, Any], Any]
Machines = Callable[..., list[subprocess.Popen[str]]]


def unchanged(spec: ClusterSpec, value: Any) -> Any:
    return value


def compare(
    folder: Path,
    *,
    config: Change = unchanged,
    report: Change = unchanged,
    root: Change = unchanged,
    seconds: float = 10.0,
) -> Callable[[ClusterSpec], dict[str, Any]]:
    """What a rank does; the changes make ranks differ."""

    def run(spec: ClusterSpec) -> dict[str, Any]:
        store = open_store(spec, 20)
        begin = time.monotonic()
        mine = report(spec, report_of(spec, config(spec, Config()), 0))
        variables = agree(spec, store, mine, root(spec, folder / "runs"), seconds)
        taken = time.monotonic() - begin
        store.set(f"done/{spec.rank}", "")
        store.wait([f"done/{rank}" for rank in range(spec.world_size)])  # rank 0 holds the store
        time.sleep(0.2 if spec.rank == 0 else 0)
        return {"variables": variables, "seconds": taken}

    return run


def two(rank_of: Rank) -> list[ClusterSpec]:
    return [rank_of(0), rank_of(1)]


def refused(answers: dict[int, Any]) -> str:
    """What rank 0 says; the others end in the same way, and say nothing."""
    assert [answer.code for answer in answers.values()] == [2] * len(answers)
    assert [answer.told for answer in answers.values()] == [False] + [True] * (len(answers) - 1)
    assert len({answer.error for answer in answers.values()}) == 1
    return str(answers[0].error)


def test_ranks_that_are_alike_agree_and_leave_nothing_behind(run_ranks: Ranks, rank_of: Rank, tmp_path: Path) -> None:
    answers = run_ranks(compare(tmp_path), [rank_of(rank, 3) for rank in range(3)])
    assert [answer.error for answer in answers.values()] == [""] * 3
    assert {answer.value["variables"].get("GLOO_SOCKET_IFNAME") for answer in answers.values()} == {"lo"}
    assert list(tmp_path.iterdir()) == []


def test_an_interface_that_the_user_chose_is_kept(
    run_ranks: Ranks, rank_of: Rank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    answers = run_ranks(compare(tmp_path), two(rank_of))
    assert [answer.value["variables"] for answer in answers.values()] == [{}, {}]


def test_different_configs_are_named_key_by_key(run_ranks: Ranks, rank_of: Rank, tmp_path: Path) -> None:
    def other(spec: ClusterSpec, config: Config) -> Config:
        return replace_keys(config, {"optimizer.lr": 0.5, "trainer.epochs": 3}) if spec.rank else config

    said = refused(run_ranks(compare(tmp_path, config=other), [rank_of(rank, 3) for rank in range(3)]))
    assert said == (
        "the ranks have different configs: optimizer.lr is 0.001 on rank 0 (n1), 0.5 on ranks 1, 2 (n2, n3); "
        "trainer.epochs is 10 on rank 0 (n1), 3 on ranks 1, 2 (n2, n3). Give all the same file and overrides"
    )
    assert list(tmp_path.iterdir()) == []


def test_different_code_and_packages_are_told_together(run_ranks: Ranks, rank_of: Rank, tmp_path: Path) -> None:
    def other(spec: ClusterSpec, report: Any) -> Any:
        return replace(report, code="0ther", versions=report.versions | {"torch": "2.11"}) if spec.rank else report

    said = refused(run_ranks(compare(tmp_path, report=other), two(rank_of)))
    assert said.startswith("the ranks cannot work together\n  the ranks have different packages: torch is ")
    assert ", 2.11 on rank 1 (n2). Let all nodes use the same environment\n  the ranks run different code of " in said


def test_a_folder_that_not_all_ranks_see_is_refused(
    run_ranks: Ranks, rank_of: Rank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_folder, "PATIENCE_SECONDS", 0.5)
    (tmp_path / "local").mkdir()

    def other(spec: ClusterSpec, root: Path) -> Path:
        return tmp_path / "local" / "runs" if spec.rank else root

    said = refused(run_ranks(compare(tmp_path, root=other), two(rank_of)))
    assert said == (
        f"run.root: rank 1 (n2) cannot see in {tmp_path}/local what rank 0 (n1) wrote into {tmp_path}; "
        "allowed: a folder that all nodes share; choose it with run.root=PATH"
    )
    assert list(tmp_path.rglob(".scaledl-probe*")) == []


def test_a_folder_that_comes_late_is_waited_for(run_ranks: Ranks, rank_of: Rank, tmp_path: Path) -> None:
    """As on a network filesystem; here the second rank's folder is a link that appears after two seconds."""

    (tmp_path / "runs").mkdir()
    (tmp_path / "link").mkdir()

    def appear() -> None:
        (tmp_path / "link").rmdir()
        (tmp_path / "link").symlink_to(tmp_path / "runs")

    def relinked(spec: ClusterSpec, root: Path) -> Path:
        if not spec.rank:
            return root
        threading.Timer(2, appear).start()
        return tmp_path / "link"

    answers = run_ranks(compare(tmp_path, root=relinked), two(rank_of))
    assert [answer.error for answer in answers.values()] == ["", ""]
    assert answers[1].value["seconds"] > 1.5


def test_a_folder_that_cannot_be_written_is_refused(
    run_ranks: Ranks,
    rank_of: Rank,
    tmpfs: Callable[[str], Path],
    remount: Callable[[Path, str], None],
) -> None:
    folder = tmpfs("1m")
    remount(folder, "ro")
    said = refused(run_ranks(compare(folder), two(rank_of)))
    assert said.startswith(f"run.root: cannot write into {folder}: the filesystem is read-only (")
    assert said.endswith("choose another with run.root=PATH")


def test_a_rank_that_stops_answering_is_named(run_ranks: Ranks, rank_of: Rank, tmp_path: Path) -> None:
    def stuck(spec: ClusterSpec, report: Any) -> Any:
        time.sleep(5 if spec.rank == 1 else 0)
        return report

    answers = run_ranks(compare(tmp_path, report=stuck, seconds=2), [rank_of(rank, 3) for rank in range(3)])
    assert answers[0].error == "rank 1 on n2 did not report within 2 s"
    assert (answers[2].error, answers[2].told) == (answers[0].error, True)
    assert {answer.code for answer in answers.values()} == {1}


def test_clocks_that_differ_are_a_warning(
    run_ranks: Ranks, rank_of: Rank, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = time.time

    def fast(spec: ClusterSpec, report: Any) -> Any:
        if spec.rank:
            monkeypatch.setattr(preflight.time, "time", lambda: clock() + 100)
        return report

    answers = run_ranks(compare(tmp_path, report=fast), two(rank_of))
    assert [answer.error for answer in answers.values()] == ["", ""]
    assert "warning: the clock of n2 is 100 s ahead of that of n1" in capfd.readouterr().err


# Two machines: network namespaces with a wire between them, each with names of its own (row 22 of the fault matrix)


PROGRAM = """
import json, os, sys
from pathlib import Path
from scaledl.config import Config
from scaledl.distributed.environment import detect_cluster
from scaledl.distributed.preflight import agree, report_of
from scaledl.distributed.rendezvous import open_store
from scaledl.errors import ScaledlError
spec = detect_cluster(os.environ)
try:
    store = open_store(spec, 60)
    print(json.dumps(agree(spec, store, report_of(spec, Config(), 0), Path(sys.argv[1]), 30)))
except ScaledlError as error:
    print(json.dumps({"error": str(error), "code": error.exit_code, "told": error.told}))
    sys.exit()
import torch
from torch import distributed
distributed.init_process_group("gloo", store=store, rank=spec.rank, world_size=2)
total = torch.ones(1)
distributed.all_reduce(total)
print(total.item())
distributed.destroy_process_group()
"""


def run_on(machines: Machines, program: Path, *arguments: str, **variables: str) -> list[list[Any]]:
    """The lines of JSON that each rank printed."""
    usual = {"MASTER_ADDR": "n1", "MASTER_PORT": "29511", "OMP_NUM_THREADS": "1"}
    children = machines([sys.executable, str(program), *arguments], 2, usual | variables)
    outputs = [child.communicate(timeout=120)[0] for child in children]
    return [[json.loads(line) for line in output.splitlines()] for output in outputs]


def test_a_host_name_on_the_loopback_is_told_with_the_interface_to_use(machines: Machines, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    [first], [second] = run_on(machines, program, str(tmp_path / "runs"))
    assert first["error"].startswith("ranks 0, 1 (n1, n2) would be reached under 127.0.0.1, the loopback, by ranks on")
    assert "Set GLOO_SOCKET_IFNAME=eth0 and NCCL_SOCKET_IFNAME=eth0" in first["error"]
    assert (first["code"], first["told"]) == (2, False)
    assert second == {**first, "told": True}

    for verdict, total in run_on(machines, program, str(tmp_path / "runs"), GLOO_SOCKET_IFNAME="eth0"):
        assert (verdict, total) == ({}, 2.0)


def test_a_master_that_is_another_machine_for_each_rank_is_told(machines: Machines, tmp_path: Path) -> None:
    """MASTER_ADDR=localhost on two machines: rank 1 finds nobody, rank 0 misses rank 1."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("open_store(spec, 60)", "open_store(spec, 8)"))
    [first], [second] = run_on(machines, program, str(tmp_path / "runs"), MASTER_ADDR="localhost")
    assert first["error"] == "rank 1 on node 1 did not appear within 8 s"
    assert (
        "could not reach rank 0 at localhost (127.0.0.1), port 29511 through lo: connection refused" in second["error"]
    )
    assert "On n2, localhost means this machine itself" in second["error"]
    assert socket.gethostname() not in ("n1", "n2")
