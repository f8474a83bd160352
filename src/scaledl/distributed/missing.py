"""Ranks that did not come, by number and, where it is known, by node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scaledl.distributed.environment import ClusterSpec


def describe_missing(spec: ClusterSpec, here: Mapping[int, Mapping[str, Any]]) -> str:
    """`here`: rank -> {"node": node_rank, "host": name} of those that came.

    "ranks 2, 3 on n2"; where the nodes of the missing are not known, the nodes of which nobody came are named.
    """
    missing = [rank for rank in range(spec.world_size) if rank not in here]
    names = node_names(spec, here)
    if _filled_in_order(spec, here):
        nodes: dict[str, list[int]] = {}
        for rank in missing:
            node = rank // spec.local_world_size
            nodes.setdefault(names.get(node, f"node {node}"), []).append(rank)
        return " and ".join(f"{ranks(numbers)} on {node}" for node, numbers in nodes.items())
    silent = [name for node, name in names.items() if node not in {who["node"] for who in here.values()}]
    return ranks(missing) + (f" (nothing was heard from {', '.join(silent)})" if silent else "")


def node_names(spec: ClusterSpec, here: Mapping[int, Mapping[str, Any]]) -> dict[int, str]:
    """Node number -> name: of the scheduler, else as the ranks there call their host."""
    if spec.nodes:
        return dict(enumerate(spec.nodes))
    return {int(who["node"]): str(who["host"]) for who in here.values()}


def ranks(numbers: list[int]) -> str:
    """
    >>> ranks([3]), ranks([0, 2, 3, 4, 7])
    ('rank 3', 'ranks 0, 2-4, 7')
    """
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    shown = [f"{part[0]}-{part[-1]}" if len(part) > 2 else ", ".join(map(str, part)) for part in parts]
    return f"rank{'s' if len(numbers) != 1 else ''} {', '.join(shown)}"


def _filled_in_order(spec: ClusterSpec, here: Mapping[int, Mapping[str, Any]]) -> bool:
    """Whether each node has the same number of ranks, one node after the other, as far as those who came show."""
    return spec.world_size == spec.num_nodes * spec.local_world_size and all(
        rank // spec.local_world_size == who["node"] for rank, who in here.items()
    )
