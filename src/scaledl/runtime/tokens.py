"""Texts to the token ids that a model takes, by the tokenizer that its file carries: JSON of Hugging Face's library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scaledl.errors import UsageError, require_extra

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PADDING_ID = 0
IMPOSSIBLE = -1e4  # a logit of a token that cannot come
_AT_A_TIME = 4096  # texts; the library's own objects take much more memory than the ids


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


def encode(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> Tensor:
    """int32 [N, length] of a tokenizer that cuts and pads to this length; on all cores."""
    parts = [ids.reshape(-1, length) for ids in token_ids(tokenizer, texts, special=True)]
    return torch.from_numpy(np.concatenate(parts)) if parts else torch.empty(0, length, dtype=torch.int32)


def token_ids(tokenizer: Tokenizer, texts: Sequence[str], *, special: bool) -> Iterator[NDArray[np.int32]]:
    """Of some thousand texts at a time their ids, one after another. `special`: with those that begin or end a text."""
    for start in range(0, len(texts), _AT_A_TIME):
        encoded = tokenizer.encode_batch_fast(texts[start : start + _AT_A_TIME], add_special_tokens=special)
        yield np.concatenate([np.array(one.ids, np.int32) for one in encoded])


def text_problem(text: object) -> str:
    """Why something cannot be tokenised, or an empty text."""
    if not isinstance(text, str):
        return f"is a {type(text).__name__}; wanted a text"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"has half of a surrogate pair at character {error.start}; wanted what UTF-8 can hold"
    return ""
