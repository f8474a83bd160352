"""Slurm's short forms, written out: lists of nodes and counts of tasks. No torch."""

from __future__ import annotations

import re
from itertools import product

from scaledl.errors import UsageError

_MAX_NODES = 65536
_ALLOWED = "node names with ranges, such as n[1-3,07],gpu-a"
_PART = re.compile(r"([^\[\],\s]*)(?:\[([0-9,-]+)\])?")
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
_COUNT = re.compile(r"(\d{1,7})(?:\(x(\d{1,5})\))?")


def expand_node_list(text: str) -> tuple[str, ...]:
    """The nodes of a list as Slurm writes it, in order. Raises UsageError.

    >>> expand_node_list("n[1-3,07],gpu-a")
    ('n1', 'n2', 'n3', 'n07', 'gpu-a')
    >>> expand_node_list("r[0-1]n[8-9]-ib")
    ('r0n8-ib', 'r0n9-ib', 'r1n8-ib', 'r1n9-ib')
    """
    nodes: list[str] = []
    for item in _items(text):
        nodes += _expand_item(item, text, _MAX_NODES - len(nodes))
    return tuple(nodes)


def expand_counts(key: str, text: str) -> tuple[int, ...]:
    """Tasks of each node. Raises UsageError that names `key`.

    >>> expand_counts("SLURM_TASKS_PER_NODE", "2(x3),1")
    (2, 2, 2, 1)
    """
    counts: list[int] = []
    for item in text.split(","):
        match = _COUNT.fullmatch(item)
        repeats = int(match[2] or 1) if match else 0
        if match is None or not 0 < repeats <= _MAX_NODES - len(counts):
            raise UsageError(f"{key}: got {text[:80]!r}; allowed: counts of tasks, such as 2(x3),1")
        counts += [int(match[1])] * repeats
    return tuple(counts)


def _items(text: str) -> list[str]:
    """The items between the commas that stand outside brackets."""
    items, depth = [""], 0
    for letter in text.strip():
        depth += {"[": 1, "]": -1}.get(letter, 0)
        if depth not in (0, 1):
            raise _refused(text)
        if letter == "," and depth == 0:
            items.append("")
        else:
            items[-1] += letter
    if depth or not all(items):
        raise _refused(text)
    return items


def _expand_item(item: str, text: str, room: int) -> list[str]:
    choices: list[list[str]] = []
    total, position = 1, 0
    while position < len(item):
        part = _PART.match(item, position)
        if part is None or part.end() == position:
            raise _refused(text)
        position = part.end()
        numbers = _expand_ranges(part[2], text) if part[2] is not None else [""]
        total *= len(numbers)
        if total > room:
            raise _refused(text, f"at most {_MAX_NODES} {_ALLOWED}")
        choices.append([part[1] + number for number in numbers])
    return ["".join(parts) for parts in product(*choices)]


def _expand_ranges(text: str, whole: str) -> list[str]:
    numbers: list[str] = []
    for item in text.split(","):
        match = _RANGE.fullmatch(item)
        if match is None:
            raise _refused(whole)
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < first + _MAX_NODES:
            raise _refused(whole)
        numbers += [str(number).zfill(len(match[1])) for number in range(first, last + 1)]
        if len(numbers) > _MAX_NODES:
            raise _refused(whole, f"at most {_MAX_NODES} {_ALLOWED}")
    return numbers


def _refused(text: str, allowed: str = _ALLOWED) -> UsageError:
    return UsageError(f"got the node list {text[:80]!r}; allowed: {allowed}")
