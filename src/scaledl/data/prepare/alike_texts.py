"""Texts that say nearly the same: found by MinHash (Broder 1997), judged by the Jaccard similarity of their pieces."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from scaledl.data.prepare.equal import Equals

PIECE = 8  # bytes
_BANDS, _ROWS = 12, 4  # of two texts with a similarity of 0.8 a band is equal with a probability of 0.998
_SEED = 20_240_229
_BLOCK = 1 << 14  # pieces at a time, so that a long text takes no more memory
_SMALL = 64  # texts that meet in a band, of which all pairs are compared
_LEADERS = 16  # of more such texts, those of a split that all others are compared with


def near_texts(texts: Sequence[str], similarity: float, splits: Sequence[str] = ()) -> list[tuple[int, int]]:
    """Pairs of these texts, the smaller number first, of whose pieces at least this share is common to both.

    A piece is eight bytes of UTF-8 in a row, of letters without their case; spaces, signs and accents are gone.
    Of texts of a split that become equal so, the first one stands for the others: these have its pairs. In large groups
    of texts that are nearly the same some stand for the others, too. The work is so bounded by a number for each text.

    Args:
        splits: of each text, where they have such.
    """
    if len(texts) < 2:
        return []
    given = splits or [""] * len(texts)
    plain = [_plain(text) for text in texts]
    equals = Equals(plain, given)
    pieces = [_pieces(plain[number]) for number in equals.first]
    found = _Pieces(pieces, np.array([given[number] for number in equals.first]), similarity).pairs()
    return equals.pairs((equals.first[one], equals.first[other]) for one, other in found)


def _plain(text: str) -> bytes:
    letters = (letter for letter in unicodedata.normalize("NFKD", text.casefold()) if letter.isalnum())
    return "".join(letters).encode() or text.encode()


def _pieces(content: bytes) -> NDArray[np.uint64]:
    """Every piece once, as a number, ascending."""
    windows = np.lib.stride_tricks.sliding_window_view(np.frombuffer(content.ljust(PIECE, b"\0"), np.uint8), PIECE)
    return np.unique(np.ascontiguousarray(windows).view(np.uint64).reshape(-1))


def _signature(pieces: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The smallest of the pieces' hashes, for each of the hash functions."""
    keys = np.random.default_rng(_SEED).integers(1, 1 << 63, (_BANDS * _ROWS, 1), dtype=np.uint64) | np.uint64(1)
    smallest = np.full(len(keys), np.iinfo(np.uint64).max, np.uint64)
    for block in np.array_split(pieces, max(1, len(pieces) // _BLOCK)):
        mixed = (block ^ (block >> np.uint64(29))) * keys
        np.minimum(smallest, (mixed ^ (mixed >> np.uint64(32))).min(axis=1), out=smallest)
    return smallest


class _Pieces:
    """Texts by their pieces, and of which pairs it is known whether they are near."""

    def __init__(self, pieces: Sequence[NDArray[np.uint64]], splits: NDArray[np.str_], similarity: float) -> None:
        self._pieces, self._splits, self._similarity = pieces, splits, similarity
        self._known: dict[tuple[int, int], bool] = {}

    def pairs(self) -> list[tuple[int, int]]:
        """Those of texts that are equal in one band at least, and of which so many pieces are common."""
        for band in np.split(np.stack([_signature(found) for found in self._pieces]), _BANDS, axis=1):
            _, group = np.unique(band, axis=0, return_inverse=True)
            order = np.argsort(group.reshape(-1), kind="stable")
            edges = np.flatnonzero(np.diff(group.reshape(-1)[order])) + 1
            for members in np.split(order, edges):
                if len(members) > _SMALL:
                    self._compare_with_leaders(members)
                else:
                    for one, other in combinations(members.tolist(), 2):
                        self._near(one, other)
        return [pair for pair, near in self._known.items() if near]

    def _compare_with_leaders(self, members: NDArray[np.int64]) -> None:
        """In every split the first text leads those that are near to it, the first of the rest again."""
        for split in np.unique(self._splits[members]):
            left = members[self._splits[members] == split].tolist()
            for _ in range(_LEADERS):
                if not left:
                    break
                near = {other for other in members.tolist() if self._near(left[0], other)}
                left = [other for other in left if other not in near]

    def _near(self, one: int, other: int) -> bool:
        if one == other:
            return True
        pair = (min(one, other), max(one, other))
        if pair not in self._known:
            a, b = self._pieces[one], self._pieces[other]
            common = len(np.intersect1d(a, b, assume_unique=True))
            self._known[pair] = common >= self._similarity * (len(a) + len(b) - common)
        return self._known[pair]
