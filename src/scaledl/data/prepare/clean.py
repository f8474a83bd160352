"""Which items a data set does without: copies, copies across splits, and one image under two labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare.chunks import Decoded
from scaledl.data.prepare.equal import Equals
from scaledl.data.prepare.images import image_hashes
from scaledl.data.prepare.items import Dropped, Item

EXACT_COPY = "an exact copy"
_RANK = {"test": 0, "val": 1, "train": 2, "": 2}  # of copies the one in the test split stays
_ALIKE = 4.0  # mean difference in brightness, of 255, between thumbnails of images that look the same
_ODD = np.uint64(0x9E3779B97F4A7C15)
_MOST_ALIKE = 300  # of a larger group, of blank images for instance, not all pairs are compared


class Digested(Protocol):
    """int64 [N] numbers among the source's items, and uint8 [N, 32] digests of what they hold."""

    @property
    def rows(self) -> NDArray[np.int64]: ...
    @property
    def digests(self) -> NDArray[np.uint8]: ...


def exact_copies(
    items: Sequence[Item], decoded: Digested, what: str = "image"
) -> tuple[NDArray[np.bool_], list[Dropped]]:
    """bool [N]: which of the decoded stay; of equal images the first one of the split that is most worth keeping."""
    kept = np.ones(len(decoded.rows), dtype=bool)
    dropped: list[Dropped] = []
    for members in _equal(decoded.digests):
        found = [items[row] for row in decoded.rows[members].tolist()]
        labels = sorted({str(item.label) for item in found if item.label is not None})
        if len(labels) > 1:
            kept[members] = False
            reason = f"the same {what} has several labels: {', '.join(labels)}"
            dropped += [Dropped(item.key, reason) for item in found]
            continue
        first = min(range(len(found)), key=lambda i: (found[i].label is None, _RANK[found[i].split], i))
        for i, member in enumerate(members):
            if i != first:
                kept[member] = False
                dropped.append(Dropped(found[i].key, EXACT_COPY, found[first].key))
    return kept, dropped


def sides(items: Sequence[Item]) -> list[str]:
    """Of each its split, and whether it has a label: things stand for such of their own side only."""
    return [item.split if item.label is not None else f"{item.split}, unlabeled" for item in items]


def near_copies(
    items: Sequence[Item], decoded: Decoded, members: NDArray[np.int64], distance: int
) -> list[tuple[int, int]]:
    """Pairs of these members of the decoded, the smaller first, whose images look the same.

    Of images of a split that are equal the first one stands for the others.
    """
    if len(members) < 2:
        return []
    digests = [digest.tobytes() for digest in decoded.digests[members]]
    equals = Equals(digests, sides([items[row] for row in decoded.rows[members].tolist()]))
    chosen = np.array(equals.first)
    near = [
        pair
        for one, other in _alike(decoded.thumbnails[members[chosen]], distance)
        for pair in zip(chosen[one].tolist(), chosen[other].tolist(), strict=True)
    ]
    numbers = members.tolist()
    return [(numbers[one], numbers[other]) for one, other in equals.pairs(near)]


def _alike(thumbnails: NDArray[np.uint8], distance: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Hashes that differ in at most `distance` bits are equal in one of `distance` + 1 parts."""
    hashes = image_hashes(thumbnails)
    bits = 8 * hashes.shape[1]
    padded = np.ascontiguousarray(np.pad(hashes, ((0, 0), (0, -hashes.shape[1] % 8))))
    words = padded.view(">u8").astype(np.uint64)
    edges = np.linspace(0, bits, distance + 2).round().astype(int).tolist()
    for start, stop in pairwise(edges):
        for one, other in neighbours(_part(words, start, stop)):
            near = np.bitwise_count(words[one] ^ words[other]).sum(axis=1) <= distance
            one, other = one[near], other[near]
            difference = np.abs(thumbnails[one].astype(np.int16) - thumbnails[other])
            same = difference.mean(axis=1) <= _ALIKE
            yield one[same], other[same]


def _part(words: NDArray[np.uint64], start: int, stop: int) -> NDArray[np.uint64]:
    """uint64 [N]: bits `start` to `stop` of [N, W]. Of more than 64 a mixture, which is equal where they are, and
    seldom elsewhere."""
    mixed = np.zeros(len(words), np.uint64)
    for first in range(start, stop, 64):
        length = min(64, stop - first)
        word, offset = divmod(first, 64)
        found = words[:, word] << np.uint64(offset)
        if offset + length > 64:
            found |= words[:, word + 1] >> np.uint64(64 - offset)
        mixed = mixed * _ODD + (found >> np.uint64(64 - length))
    return mixed


def neighbours(group: NDArray[np.uint64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """All pairs of members of one group, the smaller first; in a large group of those that are near in order."""
    order = np.argsort(group, kind="stable")
    for gap in range(1, min(len(order), _MOST_ALIKE)):
        together = group[order[gap:]] == group[order[:-gap]]
        if not together.any():
            return
        yield order[:-gap][together], order[gap:][together]


def without_alike(
    items: Sequence[Item],
    rows: NDArray[np.int64],
    kept: NDArray[np.bool_],
    pairs: Sequence[tuple[int, int]],
    config: PrepareConfig,
    what: str,
) -> tuple[NDArray[np.bool_], list[Dropped], NDArray[np.int64]]:
    """What stays of things of which some pairs are nearly the same.

    Args:
        rows: int64 [N], numbers of the things among `items`.
        kept: bool [N], which of them are still there; the pairs are among these.
        what: one of them, in a message.

    Returns:
        kept, bool [N]; what goes and why; and int64 [kept], groups of what stays that have to stay together.
    """
    if not pairs:
        return kept.copy(), [], np.arange(int(kept.sum()))
    lose = _within if config.near_duplicates == "drop" else _across_splits
    kept = kept.copy()
    dropped = []
    for member, why in lose([items[row] for row in rows.tolist()], pairs, what):
        kept[member] = False
        dropped.append(why)
    groups = clusters(len(kept), [pair for pair in pairs if kept[list(pair)].all()])
    return kept, dropped, np.searchsorted(np.flatnonzero(kept), groups[kept])


def _across_splits(items: Sequence[Item], pairs: Sequence[tuple[int, int]], what: str) -> list[tuple[int, Dropped]]:
    """What the training (or validation) split loses because it is nearly the same as something in another one."""
    lost: dict[int, Dropped] = {}
    for pair in pairs:
        one, other = sorted(pair, key=lambda member: _RANK[items[member].split])
        stays, goes = items[one], items[other]
        if stays.split != goes.split and one not in lost:
            why = f"looks the same as {_one(what)} of the {stays.split} split"
            lost.setdefault(other, Dropped(goes.key, why, stays.key))
    return sorted(lost.items())


def _one(what: str) -> str:
    return f"an {what}" if what[0] in "aeiou" else f"a {what}"


def _within(items: Sequence[Item], pairs: Sequence[tuple[int, int]], what: str) -> list[tuple[int, Dropped]]:
    """What goes when of those that are nearly the same only the first one stays."""
    lost: dict[int, Dropped] = {}
    for pair in pairs:
        one, other = sorted(pair, key=lambda member: items[member].label is None)
        if one not in lost:
            lost.setdefault(other, Dropped(items[other].key, f"looks the same as another {what}", items[one].key))
    return sorted(lost.items())


def clusters(count: int, pairs: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """int64 [count]: the first member of the group that each belongs to, where pairs make groups."""
    first = np.arange(count)

    def root(member: int) -> int:
        while first[member] != member:
            first[member] = first[first[member]]
            member = int(first[member])
        return member

    for one, other in pairs:
        a, b = sorted((root(one), root(other)))
        first[b] = a
    return np.array([root(member) for member in range(count)], np.int64).reshape(count)


def _equal(digests: NDArray[np.uint8]) -> Iterator[NDArray[np.int64]]:
    """Members of every group of equal digests that has more than one, in ascending order; the groups by digest."""
    words = np.ascontiguousarray(digests).view(">u8")
    order = np.lexsort(words.T[::-1])
    same = np.ones(max(len(order) - 1, 0), bool)  # as the one before it
    for word in words.T:
        found = word[order]
        same &= found[1:] == found[:-1]
    starts = np.flatnonzero(same & ~np.append(False, same[:-1])).tolist()
    ends = np.flatnonzero(same & ~np.append(same[1:], False)).tolist()
    yield from (order[start : end + 2] for start, end in zip(starts, ends, strict=True))
