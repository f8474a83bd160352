"""Texts to the token ids that a model takes, by the tokenizer that its file carries: JSON of Hugging Face's library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scaledl.errors import UsageError, require_extra

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

PADDING_ID = 0
IMPOSSIBLE = -1e4  # a logit of a token that cannot come
_TEXTS, _CHARACTERS = 4096, 1 << 20  # tokenised at a time, on all cores


def parse_tokenizer(content: str, where: str) -> Tokenizer:
    """The tokenizer that a JSON text describes; nothing of it is run. `where` is for messages.

    Raises UsageError where it is none, or the library is not installed.
    """
    require_extra("tokenizers", "models")
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # the library raises Exception itself
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{where}: no tokenizer of Hugging Face's library ({reason})") from error
    tokenizer.encode_special_tokens = True  # "[PAD]" in a text is five signs of it, not padding
    return tokenizer


@dataclass
class CutOff:
    """What a tokenizer cuts off: of how many texts, and how many tokens of these."""

    texts: int = 0
    tokens: int = 0

    def add(self, encoded: Iterable[Encoding], special: int) -> None:
        """`special`: how many tokens it puts around every part of a text."""
        for one in encoded:
            if rest := one.overflowing:
                self.texts += 1
                self.tokens += sum(sum(part.attention_mask) - special for part in rest)


def encode(tokenizer: Tokenizer, texts: Sequence[str], length: int, *, cut_off: CutOff | None = None) -> Tensor:
    """int32 [N, length] of a tokenizer that cuts and pads to this length; on all cores. `cut_off` counts the rest."""
    parts = [ids.reshape(-1, length) for ids in token_ids(tokenizer, texts, special=True, cut_off=cut_off)]
    return torch.from_numpy(np.concatenate(parts)) if parts else torch.empty(0, length, dtype=torch.int32)


def token_ids(
    tokenizer: Tokenizer, texts: Sequence[str], *, special: bool, cut_off: CutOff | None = None
) -> Iterator[NDArray[np.int32]]:
    """Of some texts at a time their ids, one after another. `special`: with those that begin or end a text."""
    for some in at_a_time(texts):
        encoded = tokenizer.encode_batch_fast(some, add_special_tokens=special)
        if cut_off is not None:
            cut_off.add(encoded, tokenizer.num_special_tokens_to_add(is_pair=False))
        yield np.concatenate([np.array(one.ids, np.int32) for one in encoded])


def at_a_time(texts: Iterable[str]) -> Iterator[list[str]]:
    """As many as the tokenizer takes in one go: its own objects take much more memory than texts or ids."""
    some: list[str] = []
    size = 0
    for text in texts:
        some.append(text)
        size += len(text)
        if len(some) >= _TEXTS or size >= _CHARACTERS:
            yield some
            some, size = [], 0
    if some:
        yield some


def text_problem(text: object) -> str:
    """Why something cannot be tokenised, or an empty text."""
    if not isinstance(text, str):
        return f"is a {type(text).__name__}; wanted a text"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"has half of a surrogate pair at character {error.start}; wanted what UTF-8 can hold"
    return ""
