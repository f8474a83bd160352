"""How many trials fit on the nodes at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scaledl.errors import UsageError

_SMALL = 1e-6


@dataclass(frozen=True)
class Slots:
    """How many trials run at a time, and what each of them takes."""

    count: int
    cpus: float
    gpus: float


def count_slots(each: Slots, nodes: Sequence[tuple[str, float, float]]) -> Slots:
    """With the number that fits on nodes (name, CPUs, GPUs). Raises UsageError where not even one does.

    >>> count_slots(Slots(0, 2, 0), [("a", 4, 0), ("b", 3, 0)]).count
    3
    """
    if each.gpus > 1 and each.gpus != int(each.gpus):
        raise UsageError(f"tune.gpus: got {each.gpus:g}; allowed: a fraction of one GPU, or whole GPUs")
    count = sum(_on_node(each, cpus, gpus) for _, cpus, gpus in nodes)
    if count == 0:
        name, cpus, gpus = max(nodes, key=lambda node: (min(node[2], each.gpus), node[1]))
        short = "gpus" if gpus < each.gpus else "cpus"
        wanted = each.gpus if short == "gpus" else each.cpus
        there = gpus if short == "gpus" else cpus
        raise UsageError(
            f"tune.{short}: got {wanted:g} for each trial; allowed: at most {there:g}, which the largest node "
            f"({name}) has: a trial runs on one node. Use fewer, or larger nodes"
        )
    return replace(each, count=count)


def _on_node(each: Slots, cpus: float, gpus: float) -> int:
    by_cpus = int(cpus / each.cpus + _SMALL)
    if not each.gpus:
        return by_cpus
    by_gpus = int(gpus) * int(1 / each.gpus + _SMALL) if each.gpus < 1 else int(gpus / each.gpus + _SMALL)
    return min(by_cpus, by_gpus)
