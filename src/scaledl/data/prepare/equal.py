"""Things that are equal: some stand for the others where it would take too long to compare all."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

Pair = tuple[int, int]


class Equals:
    """Numbers of things by what they hold, and by their split.

    Attributes:
        first: ascending, of those of a split that are equal the first one, which stands for them.
    """

    def __init__(self, contents: Sequence[Hashable], splits: Sequence[str]) -> None:
        self._members: dict[tuple[Hashable, str], list[int]] = {}
        for number, key in enumerate(zip(contents, splits, strict=True)):
            self._members.setdefault(key, []).append(number)
        self._equal = {members[0]: members for members in self._members.values()}
        self.first = sorted(self._equal)

    def pairs(self, near: Iterable[Pair]) -> list[Pair]:
        """Of all things: each with the first one of every split that it is equal to, and with those that are near to
        what stands for it. `near`: pairs of such as stand for others. In all pairs the smaller number comes first."""
        by_content: dict[Hashable, list[int]] = {}
        for (content, _), members in self._members.items():
            by_content.setdefault(content, []).append(members[0])
        equal = [
            (one, other)
            for stands in by_content.values()
            for one in stands
            for other in stands
            if one != other or len(self._equal[one]) > 1
        ]
        return sorted({pair for one, other in (*equal, *near) for pair in self._extended(one, other)})

    def _extended(self, one: int, other: int) -> Iterable[Pair]:
        for member in self._equal[one]:
            if member != other:
                yield min(member, other), max(member, other)
        for member in self._equal[other]:
            if member != one:
                yield min(member, one), max(member, one)
