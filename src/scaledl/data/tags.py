"""Tags of words become tags of tokens: a word's first token has its tag, all others have none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scaledl.config.schema import TextConfig
from scaledl.data.arrays import IGNORED
from scaledl.data.text import tokenize

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def tokenize_tagged(
    texts: Mapping[str, Sequence[str]], tags: Mapping[str, Tensor], config: TextConfig
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tokenizer]:
    """As `tokenize`, and the tags of the tokens, int64 [N, T].

    A text is tokenised as it stands, so that it becomes the same tokens when tags are predicted for it.

    Args:
        texts: words with one space between.
        tags: int64 [N, W], those of the words, IGNORED behind them.
    """
    tokens, tokenizer = tokenize(texts, config)
    found = {
        split: torch.from_numpy(_tags_of_tokens(tokenizer, texts[split], tags[split].numpy(), tokens[split].shape[1]))
        for split in texts
    }
    return tokens, found, tokenizer


def _tags_of_tokens(
    tokenizer: Tokenizer, texts: Sequence[str], tags: NDArray[np.int64], length: int
) -> NDArray[np.int64]:
    found = np.full((len(texts), length), IGNORED, np.int64)
    for row, text, own, encoded in zip(found, texts, tags, tokenizer.encode_batch(list(texts)), strict=True):
        words = _words_of_tokens(text, encoded.offsets)
        for place, (before, word) in enumerate(pairwise([-1, *words])):
            if word not in (before, -1):
                row[place] = own[word]
    return found


def _words_of_tokens(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Of each token the number of the word that it ends in; -1 for a space, and for what stands for no text."""
    number_of, number = [], 0
    for letter in text:
        number += letter == " "
        number_of.append(-1 if letter == " " else number)
    return [number_of[end - 1] if end > begin else -1 for begin, end in offsets]
