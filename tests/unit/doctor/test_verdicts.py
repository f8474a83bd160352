"""From what ranks measured to who is named."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaledl.distributed.environment import ClusterSpec
from scaledl.doctor.check import Check
from scaledl.doctor.links import Link, ring_rounds, slow_links, slow_members
from scaledl.doctor.verdict import merged, pause_checks, reduce_check, ring_checks

pytestmark = pytest.mark.unit

MIB = 2**20


def spec_of(world_size: int) -> ClusterSpec:
    return ClusterSpec(
        launcher="slurm",
        rank=0,
        local_rank=0,
        node_rank=0,
        world_size=world_size,
        local_world_size=1,
        num_nodes=world_size,
        nodes=tuple(f"n{number}" for number in range(1, world_size + 1)),
        master_addr="n1",
        master_port=None,
        launch_id="x",
        job_id="1",
        restart=0,
    )


def ring(world_size: int, slow: dict[tuple[int, int], float] | None = None, usual: float = 1000 * MIB) -> list[Link]:
    """A link from each rank to the next; `slow`: those that are not as usual."""
    edges = [edge for part in ring_rounds(world_size) for edge in part]
    return [Link(a, b, 1e-4, (slow or {}).get((a, b), usual)) for a, b in edges]


def measured(links: list[Link], world_size: int, **changes: Any) -> dict[int, dict[str, Any]]:
    """As ranks report it, each on a machine of its own."""
    return {
        rank: {
            "node": rank,
            "host": f"n{rank + 1}",
            "machine": f"machine {rank}",
            "links": [vars(link) for link in links if link.a == rank],
            "still": 0.0,
            **changes,
        }
        for rank in range(world_size)
    }


@given(st.integers(2, 40))
def test_every_neighbour_is_measured_once_and_no_rank_twice_at_a_time(world_size: int) -> None:
    rounds = ring_rounds(world_size)
    edges = [edge for part in rounds for edge in part]
    assert len(rounds) <= 3
    assert len(edges) == len(set(map(frozenset, edges))) == (world_size if world_size > 2 else 1)
    for part in rounds:
        members = [rank for edge in part for rank in edge]
        assert len(members) == len(set(members))


@pytest.mark.parametrize("world_size", [3, 4, 5, 8])
@pytest.mark.parametrize("slow", [0, 1, 2])
def test_a_node_whose_links_are_both_slow_is_named_and_no_other(world_size: int, slow: int) -> None:
    slow_ones = {edge: 10.0 * MIB for part in ring_rounds(world_size) for edge in part if slow in edge}
    [check] = ring_checks(spec_of(world_size), measured(ring(world_size, slow_ones), world_size), 30)
    assert (check.name, check.verdict) == ("links", "warn")
    assert check.what == f"n{slow + 1} is slow: 10.0 MiB/s at best, the median of all is 1000 MiB/s"
    assert check.fix == f"leave it out: sbatch --exclude=n{slow + 1}"


def test_a_node_that_answers_late_is_named() -> None:
    links = [Link(link.a, link.b, 0.02 if 2 in (link.a, link.b) else 1e-4, link.bandwidth) for link in ring(4)]
    [check] = ring_checks(spec_of(4), measured(links, 4), 30)
    assert check.what == "n3 is slow: 20.0 ms to its neighbours, the median is 0.10 ms"


def test_a_link_that_alone_is_slow_is_no_nodes_fault() -> None:
    links = ring(5, {(1, 2): 10.0 * MIB})
    [check] = ring_checks(spec_of(5), measured(links, 5), 30)
    assert check.what == "the link of n2 and n3 is slow: 10.0 MiB/s, the median of all is 1000 MiB/s"
    assert check.fix == "look at its cables and switch"


def test_two_nodes_have_no_median_and_are_shown_as_they_are() -> None:
    [check] = ring_checks(spec_of(2), measured(ring(2, usual=10.0 * MIB), 2), 30)
    assert (check.verdict, check.what) == ("ok", "1 between neighbours: at least 10.0 MiB/s, at most 0.10 ms")


def test_links_within_a_machine_are_not_compared_with_those_between() -> None:
    """Two ranks on each of three machines: the links within are far faster, and no machine is slow."""
    links = ring(6, dict.fromkeys(((1, 2), (3, 4), (5, 0)), 50.0 * MIB))
    found = measured(links, 6)
    for rank, one in found.items():
        one["machine"], one["host"], one["node"] = f"machine {rank // 2}", f"n{rank // 2 + 1}", rank // 2
    [check] = ring_checks(spec_of(6), found, 30)
    assert (check.verdict, check.what) == ("ok", "3 between neighbours: at least 50.0 MiB/s, at most 0.10 ms")


def test_ranks_of_one_machine_are_compared_with_each_other() -> None:
    found = measured(ring(4, {(1, 2): MIB, (2, 3): MIB}), 4, machine="one")
    [check] = ring_checks(spec_of(4), found, 30)
    assert check.what.startswith("rank 2 is slow: 1.0 MiB/s at best")


def test_machines_with_the_same_name_are_told_apart() -> None:
    found = measured(ring(3, {(0, 1): MIB, (1, 2): MIB}), 3, host="localhost")
    [check] = ring_checks(spec_of(3), found, 30)
    assert check.what.startswith("localhost (rank 1) is slow")


def test_a_rank_that_did_not_answer_comes_before_what_followed_from_it() -> None:
    found = measured(ring(4), 4)
    del found[2]
    found[1]["links"] = [{"a": 1, "b": 2, "error": "timed out"}]
    first, *_ = ring_checks(spec_of(4), found, 30)
    assert (first.verdict, first.what) == ("fail", "rank 2 on n3 did not answer within 30 s")


def test_a_rank_that_reaches_neither_neighbour_is_named() -> None:
    found = measured(ring(5), 5)
    for a, b in ((1, 2), (2, 3)):
        for rank in (a, b):
            found[rank]["links"] = [{"a": a, "b": b, "error": "timed out"}]
    [check] = ring_checks(spec_of(5), found, 30)
    assert (check.verdict, check.what) == ("fail", "rank 2 (n3) reached neither of its neighbours")
    assert check.fix == "leave it out: sbatch --exclude=n3"


def test_two_ranks_that_do_not_reach_each_other_are_named() -> None:
    found = measured(ring(4), 4)
    found[1]["links"] = [{"a": 1, "b": 2, "error": "timed out"}]
    [check] = ring_checks(spec_of(4), found, 30)
    assert check.what == "rank 1 (n2) and rank 2 (n3) do not reach each other"


def test_pauses() -> None:
    found = measured(ring(3), 3)
    found[1]["still"] = 3.21
    [check] = pause_checks(spec_of(3), found)
    assert (check.verdict, check.what) == ("warn", "rank 1 (n2) stood still for 3.2 s")


def test_the_reduction() -> None:
    took = {"backend": "gloo", "bytes": 4 * MIB, "count": 10, "median": 0.01, "p95": 0.02, "longest": 0.03}
    found = measured([], 2, reduce=took)
    check = reduce_check(spec_of(2), found, 30)
    assert check.verdict == "ok"
    assert "median 10.0 ms (400 MiB/s each way)" in check.what
    found[1]["reduce"] = {"error": "no answer within 15 s"}
    assert reduce_check(spec_of(2), found, 30).what == "rank 1 (n2): no answer within 15 s"
    del found[1]
    assert reduce_check(spec_of(2), found, 30).what == "rank 1 on n2 did not answer within 30 s"


def test_nodes_that_are_alike_are_one_row() -> None:
    nodes = {name: [Check("memory", "ok", f"{name} has much")] for name in ("n1", "n2")}
    assert merged(nodes) == [Check("memory", "ok", "n1 has much (and so on 2 nodes)")]


def test_nodes_that_are_not_well_are_named() -> None:
    ok, full, slow = (
        Check("disk", "ok", "fine"),
        Check("disk", "fail", "full", "clean"),
        Check("disk", "warn", "slow", "wait"),
    )
    assert merged({"n1": [ok], "n2": [full], "n3": [slow], "n4": [full]}) == [
        Check("disk", "fail", "n2, n4: full; n3: slow", "clean; wait")
    ]


def test_slow_members_need_three_to_compare() -> None:
    assert slow_members(ring(2), {0: "a", 1: "b"}) == {}
    assert slow_links(ring(2), {0: "a", 1: "b"}, []) == {}
