"""Which node is slow, read from what neighbours measured of each other. Pure functions.

A node is judged by the better of its links: a slow neighbour makes one of them slow, a slow card of its own both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

SLOW_FACTOR = 3.0
LATE_FACTOR = 5.0
LATE_SECONDS = 1e-3
MIB = 2**20


@dataclass(frozen=True)
class Link:
    """Between two ranks; `bandwidth` in bytes a second, of the slower direction; `latency` in seconds, one way."""

    a: int
    b: int
    latency: float
    bandwidth: float


def ring_rounds(world_size: int) -> list[list[tuple[int, int]]]:
    """The links of a ring in rounds, in each of which a rank has at most one.

    >>> ring_rounds(2), ring_rounds(3)
    ([[(0, 1)]], [[(0, 1)], [(1, 2)], [(2, 0)]])
    >>> ring_rounds(4)
    [[(0, 1), (2, 3)], [(1, 2), (3, 0)]]
    """
    edges = [(rank, (rank + 1) % world_size) for rank in range(world_size if world_size > 2 else 1)]
    last = [edges[-1]] if world_size % 2 and world_size > 2 else []
    paired = edges[: len(edges) - len(last)]
    return [part for part in (paired[::2], paired[1::2], last) if part]


def slow_members(links: Sequence[Link], member: Mapping[int, str]) -> dict[str, str]:
    """Name -> what is slow about it, against the median of all. `member`: rank -> node, or the rank's own name."""
    between = [link for link in links if member[link.a] != member[link.b]]
    names = sorted({member[rank] for link in between for rank in (link.a, link.b)})
    if len(names) < 3:
        return {}
    best = {name: max(link.bandwidth for link in _of(between, name, member)) for name in names}
    quick = {name: min(link.latency for link in _of(between, name, member)) for name in names}
    usual, usual_latency = median(best.values()), median(quick.values())
    found = {}
    for name in names:
        if best[name] < usual / SLOW_FACTOR:
            found[name] = f"{rate(best[name])} at best, the median of all is {rate(usual)}"
        elif quick[name] > max(LATE_SECONDS, usual_latency * LATE_FACTOR):
            found[name] = f"{1000 * quick[name]:.1f} ms to its neighbours, the median is {1000 * usual_latency:.2f} ms"
    return found


def slow_links(links: Sequence[Link], member: Mapping[int, str], excused: Iterable[str]) -> dict[tuple[str, str], str]:
    """Pairs of names whose link alone is slow: of neither, to its other neighbour, the same can be said."""
    between = [link for link in links if member[link.a] != member[link.b]]
    if len(between) < 3:
        return {}
    usual = median(link.bandwidth for link in between)
    return {
        (member[link.a], member[link.b]): f"{rate(link.bandwidth)}, the median of all is {rate(usual)}"
        for link in between
        if link.bandwidth < usual / SLOW_FACTOR and not {member[link.a], member[link.b]} & set(excused)
    }


def rate(bandwidth: float) -> str:
    """
    >>> rate(3 * 2**20), rate(5 * 2**30)
    ('3.0 MiB/s', '5120 MiB/s')
    """
    value = bandwidth / MIB
    return f"{value:.1f} MiB/s" if value < 100 else f"{value:.0f} MiB/s"


def _of(links: Sequence[Link], name: str, member: Mapping[int, str]) -> list[Link]:
    return [link for link in links if name in (member[link.a], member[link.b])]
