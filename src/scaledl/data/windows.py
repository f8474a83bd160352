"""Windows of texts that have more tokens than a sample: how many, which tokens, under which ids."""

from __future__ import annotations

import itertools
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scaledl.config.schema import TextConfig
from scaledl.errors import ScaledlError
from scaledl.run.files import storage_errors
from scaledl.runtime.tokens import PADDING_ID, at_a_time

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PIECE = 1 << 16  # characters that are tokenised in one go
ANOTHER = 1 << 32  # added to a text's id for each of its windows but the first; no set has as many texts
_VALUES = 1 << 20  # cut at a time


@dataclass(frozen=True)
class Windows:
    """`length` tokens each, `stride` apart, from a text's first token to its last."""

    length: int
    stride: int

    @classmethod
    def of(cls, config: TextConfig, length: int) -> Windows:
        """Of so many tokens, as far apart as `data.text.stride` says."""
        return cls(length, max(1, length - 1) if config.stride == "auto" else config.stride)

    def count(self, sizes: Tensor) -> Tensor:
        """How many windows texts of so many tokens have, int64 [N]: those that reach one which is not in an earlier
        window, and have two, of which one can be predicted; of each text at least one."""
        further = -(-(sizes - self.length).clamp(min=0) // self.stride)
        return 1 + torch.minimum(further, (sizes - 2) // self.stride).clamp(min=0)

    def size(self, tokens: int) -> int:
        """Tokens and padding that all windows of a text of so many tokens lie in."""
        return (int(self.count(torch.tensor(tokens))) - 1) * self.stride + self.length

    def note(self, sizes: Tensor) -> str:
        """On the texts that make more than one, of training texts of so many tokens; "" where none does."""
        counts = self.count(sizes)
        more = int((counts > 1).sum())
        if not more:
            return ""
        return (
            f"texts: {more:,} of {len(sizes):,} training texts have more than {self.length:,} tokens and become "
            f"windows, {self.stride:,} tokens apart: {int(counts.sum()):,} samples"
        )

    def cut(
        self, tokens: NDArray[np.int32], begins: NDArray[np.int64], ends: NDArray[np.int64], numbers: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """int32 [K, length]: windows of these numbers (0 is a text's first) of texts that lie in `tokens` from begin to
        end; what is behind a text is padding."""
        places = (begins + numbers * self.stride)[:, None] + np.arange(self.length)
        there = places < ends[:, None]
        found = np.full(places.shape, PADDING_ID, np.int32)
        found[there] = tokens[places[there]]
        return found


@dataclass(frozen=True, eq=False)
class Tokens:
    """Texts as token ids, one behind the other, with those that begin and end a text.

    Attributes:
        values: int32, mapped from a file without a name.
        sizes: int64 [N], tokens of each text.
    """

    values: NDArray[np.int32]
    sizes: Tensor

    @classmethod
    def of(cls, texts: Iterable[str], tokenizer: Tokenizer) -> Tokens:
        """`tokenizer`: one that neither cuts nor pads."""
        sizes: list[int] = []

        def blocks() -> Iterator[NDArray[np.int32]]:
            for found in whole_texts(texts, tokenizer):
                sizes.append(len(found))
                yield found

        return cls(in_a_file(blocks()), torch.tensor(sizes, dtype=torch.int64))

    def cut(self, windows: Windows) -> tuple[Tensor, Tensor, Tensor]:
        """All windows, int32 [K, length], from a file without a name; of each the number of its text, and its own."""
        texts, numbers = places_of(windows.count(self.sizes))
        ends = self.sizes.cumsum(0)
        parts = zip(*(part.split(max(1, _VALUES // windows.length)) for part in (texts, numbers)), strict=True)
        blocks = (
            windows.cut(self.values, (ends - self.sizes)[text].numpy(), ends[text].numpy(), number.numpy())
            for text, number in parts
        )
        return torch.from_numpy(in_a_file(blocks).reshape(-1, windows.length)), texts, numbers


def places_of(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Windows of texts, one text after the other: the number of the text, and of the window in it, int64 [sum].

    >>> places_of(torch.tensor([1, 3]))
    (tensor([0, 1, 1, 1]), tensor([0, 0, 1, 2]))
    """
    texts = torch.arange(len(counts)).repeat_interleave(counts)
    return texts, torch.arange(len(texts)) - (counts.cumsum(0) - counts)[texts]


def whole_texts(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[NDArray[np.int32]]:
    """Token ids of one text after the other, by a tokenizer that neither cuts nor pads.

    Long ones are tokenised in the pieces that `data.source=text` reads, unless the tokenizer has tokens to put around a
    text.
    """
    in_one = tokenizer.num_special_tokens_to_add(is_pair=False) > 0
    are_last: deque[bool] = deque()

    def pieces() -> Iterator[str]:
        for text in texts:
            ends = [len(text)] if in_one else list(piece_ends(text, PIECE))
            for begin, end in itertools.pairwise([0, *ends]):
                are_last.append(end == len(text))
                yield text[begin:end]

    found: list[NDArray[np.int32]] = []
    for some in at_a_time(pieces()):
        for one in tokenizer.encode_batch_fast(some, add_special_tokens=True):
            found.append(np.array(one.ids, np.int32))
            if are_last.popleft():
                yield found[0] if len(found) == 1 else np.concatenate(found)
                found = []


def piece_ends(text: str, size: int) -> Iterator[int]:
    """Where pieces of at least so many characters end, but for the last one: behind a line's end where one is near,
    else before a space.

    >>> list(piece_ends("one two\\nthree four five", 5))
    [8, 13, 18, 23]
    """
    begin = 0
    while len(text) - begin > size:
        begin = piece_end(text, begin, size)
        yield begin
    if begin < len(text) or not text:
        yield len(text)


def piece_end(text: str, begin: int, size: int) -> int:
    """Where the piece ends that begins there, in a text that goes on for at least twice the size, or to its end."""
    line = text.find("\n", begin + size, begin + 2 * size)
    space = text.find(" ", begin + size, begin + 2 * size) if line < 0 else -1
    return line + 1 if line >= 0 else space if space >= 0 else min(begin + size, len(text))


def in_a_file(blocks: Iterable[NDArray[np.int32]]) -> NDArray[np.int32]:
    """All of them, one behind the other, mapped from a file in the temporary folder that has no name any more.

    Raises ScaledlError where the disk refuses, which says what to do.
    """
    count = 0
    with _temporary_file() as file:
        for block in blocks:
            file.write(np.ascontiguousarray(block).data)
            count += block.size
        file.flush()
        if not count:
            return np.empty(0, np.int32)
        # Copy on write: torch knows no read-only tensors, and pages that are only read stay those of the file.
        mapped: NDArray[Any] = np.memmap(file, np.int32, "c", shape=(count,))
    return mapped


@contextmanager
def _temporary_file() -> Iterator[IO[bytes]]:
    try:
        with storage_errors(Path(tempfile.gettempdir()), "tokens of a text in"), tempfile.TemporaryFile() as file:
            yield file
    except ScaledlError as error:
        if type(error) is not ScaledlError or not isinstance(error.__cause__, OSError):
            raise
        raise ScaledlError(f"{error}; fix: make room, or name a folder on another disk in TMPDIR") from error
