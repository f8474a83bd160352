"""What rank 0 reads from reports: pure functions over values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scaledl.config import Config
from scaledl.config import replace as replace_keys
from scaledl.distributed.differences import one_machine, problems, skewed_clocks
from scaledl.distributed.report import Report

pytestmark = pytest.mark.unit


def report(rank: int, **changes: Any) -> Report:
    """A rank on a machine of its own, with nothing to complain about."""
    usual = Report(
        rank=rank,
        node=rank,
        host=f"n{rank + 1}",
        machine=f"machine {rank}",
        own=f"10.0.0.{rank + 1}",
        master="10.0.0.1",
        towards=f"10.0.0.{rank + 1}",
        interface="eth0" if rank else "lo",
        gloo_interface=None,
        config=Config().model_dump(mode="json"),
        versions={"torch": "2.14.1", "numpy": "2.4"},
        code="abc",
        revision="0123456789abcdef",
        gpus=0,
        cpus=2,
        time=1000.0,
    )
    return replace(usual, **changes)


def config(**keys: Any) -> dict[str, Any]:
    return replace_keys(Config(), {key.replace("__", "."): value for key, value in keys.items()}).model_dump(
        mode="json"
    )


def test_nothing_is_wrong_with_ranks_that_are_alike() -> None:
    assert problems([report(rank) for rank in range(4)]) == []


def test_keys_are_named_with_every_value() -> None:
    reports = [report(0), report(1, config=config(optimizer__lr=0.1)), report(2), report(3, config=config(run__seed=7))]
    assert problems(reports) == [
        "the ranks have different configs: optimizer.lr is 0.001 on ranks 0, 2, 3 (n1, n3, n4), 0.1 on rank 1 (n2); "
        "run.seed is 0 on ranks 0-2 (n1, n2, n3), 7 on rank 3 (n4). Give all the same file and overrides"
    ]


def test_many_keys_are_cut_short() -> None:
    keys = {f"trainer__{name}": 7 for name in ("epochs", "keep_last", "max_steps", "log_every_n_steps")}
    [said] = problems([report(0), report(1, config=config(run__seed=1, data__batch_size=7, optimizer__lr=0.1, **keys))])
    assert said.count(" on rank 1 (n2)") == 5
    assert ", and 2 more keys. Give" in said


def test_packages_and_code_are_named() -> None:
    other = report(1, versions={"torch": "2.11"}, code="def", revision=None)
    assert problems([report(0), other]) == [
        "the ranks have different packages: numpy is 2.4 on rank 0 (n1), not installed on rank 1 (n2); torch is 2.14.1 "
        "on rank 0 (n1), 2.11 on rank 1 (n2). Let all nodes use the same environment",
        "the ranks run different code of scaledl: abc (git 0123456789ab) on rank 0 (n1), def on rank 1 (n2). Let all "
        "nodes use the same installation",
    ]


def test_another_revision_of_the_project_is_no_other_code() -> None:
    assert problems([report(0), report(1, revision="other")]) == []


def test_a_node_whose_gpus_are_gone_is_named() -> None:
    [said] = problems([report(0, gpus=4), report(1)])
    assert said.startswith("rank 1 (n2): no GPU is visible, but the others have some. Look at nvidia-smi there")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([{}, {"own": "127.0.1.1"}], "rank 1 (n2) would be reached under 127.0.1.1, the loopback"),
        ([{"own": "127.0.0.1"}, {"own": "127.0.1.1"}], "ranks 0, 1 (n1, n2) would be reached under 127.0.0.1 and 127."),
        ([{"master": "127.0.0.1"}, {}], "rank 0 (n1) would be reached under 127.0.0.1, the loopback"),
    ],
)
def test_ranks_on_the_loopback_of_several_machines_are_named(changes: list[dict[str, Any]], said: str) -> None:
    reports = [report(rank, **change) for rank, change in enumerate(changes)]
    [problem] = problems(reports)
    assert problem.startswith(said)
    assert "GLOO_SOCKET_IFNAME=" in problem
    assert problems([replace(report, gloo_interface="eth0") for report in reports]) == []
    assert problems([replace(report, machine="one") for report in reports]) == []


def test_the_interface_to_use_is_the_one_that_leads_to_the_others() -> None:
    [said] = problems([report(0), report(1, own="127.0.0.1"), report(2, own="127.0.0.1")])
    assert "Set GLOO_SOCKET_IFNAME=eth0 and NCCL_SOCKET_IFNAME=eth0, the interface towards the other ranks; or" in said
    [said] = problems([report(0), report(1, own="127.0.0.1"), report(2, own="127.0.0.1", interface="ib0")])
    assert "GLOO_SOCKET_IFNAME=INTERFACE and NCCL_SOCKET_IFNAME=INTERFACE" in said
    assert "towards the other ranks, eth0 on n2, ib0 on n3; or" in said


def test_clocks() -> None:
    reports = [report(0), report(1, time=1059.0), report(2, time=1061.0), report(3, time=900.0)]
    assert [said.partition(":")[0] for said in skewed_clocks(reports)] == [
        "the clock of n3 is 61 s ahead of that of n1",
        "the clock of n4 is 100 s behind that of n1",
    ]


def test_one_machine() -> None:
    assert one_machine([report(0, machine="one"), report(1, machine="one")])
    assert not one_machine([report(0), report(1)])
