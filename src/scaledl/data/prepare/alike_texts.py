"""Texts that say nearly the same: found by MinHash (Broder 1997), judged by the Jaccard similarity of their pieces."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scaledl.data.prepare.clean import neighbours

PIECE = 8  # bytes
_BANDS, _ROWS = 12, 4  # of two texts with a similarity of 0.8 a band is equal with a probability of 0.998
_SEED = 20_240_229
_BLOCK = 1 << 14  # pieces at a time, so that a long text takes no more memory


def near_texts(texts: Sequence[str], similarity: float) -> list[tuple[int, int]]:
    """Pairs of these texts, the smaller number first, of whose pieces at least this share is common to both.

    A piece is eight bytes of UTF-8 in a row, of letters without their case; spaces, signs and accents are gone.
    Of texts that become equal so, each is paired with the first one only.
    """
    if len(texts) < 2:
        return []
    plain = [_plain(text) for text in texts]
    first: dict[bytes, int] = {}
    stands = [first.setdefault(content, number) for number, content in enumerate(plain)]
    pairs = {(one, number) for number, one in enumerate(stands) if one != number}
    chosen = sorted(first.values())
    pieces = [_pieces(plain[number]) for number in chosen]
    for one, other in sorted(_candidates(np.stack([_signature(found) for found in pieces]))):
        common = len(np.intersect1d(pieces[one], pieces[other], assume_unique=True))
        if common >= similarity * (len(pieces[one]) + len(pieces[other]) - common):
            pairs.add((chosen[one], chosen[other]))
    return sorted(pairs)


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


def _candidates(signatures: NDArray[np.uint64]) -> set[tuple[int, int]]:
    """Pairs of rows that are equal in one band at least."""
    found: set[tuple[int, int]] = set()
    for band in np.split(signatures, _BANDS, axis=1):
        _, group = np.unique(band, axis=0, return_inverse=True)
        for one, other in neighbours(group.reshape(-1)):
            found.update(zip(one.tolist(), other.tolist(), strict=True))
    return found
