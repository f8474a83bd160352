"""Tags of words become tags of tokens: a word's first token has its tag, all others have none."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from scaledl.data.arrays import IGNORED

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def tags_of_tokens(tokenizer: Tokenizer, texts: Sequence[str], tags: Tensor, length: int) -> Tensor:
    """int64 [N, T] of texts that the tokenizer cuts and pads to T tokens.

    A text is tokenised as it stands, so that it becomes the same tokens when tags are predicted for it.

    Args:
        texts: words with one space between.
        tags: int64 [N, W], those of the words, IGNORED behind them.
    """
    found, known = np.full((len(texts), length), IGNORED, np.int64), tags.numpy()
    for row, text, own, encoded in zip(found, texts, known, tokenizer.encode_batch(list(texts)), strict=True):
        words = _words_of_tokens(text, encoded.offsets)
        for place, (before, word) in enumerate(pairwise([-1, *words])):
            if word not in (before, -1):
                row[place] = own[word]
    return torch.from_numpy(found)


def _words_of_tokens(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Of each token the number of the word that it ends in; -1 for a space, and for what stands for no text."""
    number_of, number = [], 0
    for letter in text:
        number += letter == " "
        number_of.append(-1 if letter == " " else number)
    return [number_of[end - 1] if end > begin else -1 for begin, end in offsets]
