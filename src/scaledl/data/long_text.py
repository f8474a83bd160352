"""One long text of files: read piece by piece, and as tokens in windows of one array, mapped from a file."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scaledl.config.schema import TextConfig
from scaledl.data.windows import PIECE, Windows, in_a_file, piece_end, piece_ends
from scaledl.errors import UsageError
from scaledl.runtime.tokens import PADDING_ID, token_ids

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BYTES = 1 << 20  # read at a time
_PIECES = 16  # tokenised at a time, on all cores


@dataclass(frozen=True)
class LongText:
    """The characters start..stop-1 of files, one behind the other. Iterating gives its pieces."""

    paths: Sequence[Path]
    start: int
    stop: int

    @classmethod
    def of(cls, paths: Sequence[Path]) -> LongText:
        """All of them. Raises UsageError for a file that cannot be read, or is no UTF-8."""
        return cls(paths, 0, sum(len(text) for text in _characters(paths)))

    def __len__(self) -> int:
        """About how many pieces there are."""
        return -(-(self.stop - self.start) // PIECE)

    def __iter__(self) -> Iterator[str]:
        """Parts of about so many characters, to where a line or a word ends: together they are the text."""
        rest = ""
        for text in self._texts():
            rest += text
            while len(rest) >= 2 * PIECE:
                stop = piece_end(rest, 0, PIECE)
                yield rest[:stop]
                rest = rest[stop:]
        for begin, stop in itertools.pairwise([0, *piece_ends(rest, PIECE)]):
            if rest:
                yield rest[begin:stop]

    def cut(self, fraction: float) -> tuple[LongText, LongText]:
        """What stays and the last part, about this share, from the beginning of a line where one is near."""
        size = self.stop - self.start
        place = round(size * (1 - fraction))
        near = "".join(LongText(self.paths, self.start + place, min(self.start + place + PIECE, self.stop))._texts())
        line_end = near.find("\n")
        place += line_end + 1 if line_end >= 0 and place + line_end < size - 1 else 0
        middle = self.start + place
        return LongText(self.paths, self.start, middle), LongText(self.paths, middle, self.stop)

    def _texts(self) -> Iterator[str]:
        end = 0
        for text in _characters(self.paths):
            begin, end = end, end + len(text)
            if begin >= self.stop:
                return
            yield text[max(0, self.start - begin) : max(0, self.stop - begin)]


def windows(text: LongText, tokenizer: Tokenizer, config: TextConfig, where: str) -> Tensor:
    """int32 [N, T], `stride` apart, to the last token; what is behind it is padding.

    They overlap in memory, where only what somebody looks at is: the tokens are in a file that has no name any more.
    `tokenizer`: one that cuts nothing yet. Raises UsageError for fewer than two tokens.
    """
    tiles, count = Windows.of(config, config.max_length), 0

    def blocks() -> Iterator[NDArray[np.int32]]:
        nonlocal count
        for tokens in _tokens(text, tokenizer):
            count += len(tokens)
            yield tokens
        if count < 2:
            raise UsageError(f"{where} split has {count} tokens; allowed: at least 2")
        yield np.full(max(0, tiles.size(count) - count), PADDING_ID, np.int32)

    mapped = torch.from_numpy(in_a_file(blocks()))[: tiles.size(count)]
    return mapped.unfold(0, tiles.length, tiles.stride)


def _tokens(pieces: Iterable[str], tokenizer: Tokenizer) -> Iterator[NDArray[np.int32]]:
    all_ = iter(pieces)
    while some := list(itertools.islice(all_, _PIECES)):
        yield from token_ids(tokenizer, some, special=False)


def _characters(paths: Sequence[Path]) -> Iterator[str]:
    for path in paths:
        yield from _decoded(path)


def _decoded(path: Path) -> Iterator[str]:
    """Raises UsageError naming the byte that is no UTF-8."""
    decoder, read = codecs.getincrementaldecoder("utf-8-sig")(), 0
    try:
        with path.open("rb") as file:
            while block := file.read(_BYTES):
                read += len(block)
                yield decoder.decode(block)
            yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        place = read - len(error.object) + error.start  # what could not be decoded ends where reading did
        raise UsageError(
            f"{path}: byte {place} is {error.object[error.start]:#04x}, which is no UTF-8; fix: save the file as UTF-8"
        ) from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
