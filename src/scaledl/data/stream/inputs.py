"""Streams whose samples are made of what their shards hold: tables with categories, and texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from scaledl.config.schema import TextConfig
from scaledl.data.stored import Field
from scaledl.data.stream.samples import gathered, texts_of
from scaledl.data.stream.shard import Shard
from scaledl.data.stream.split import Stream
from scaledl.data.table_features import features_of
from scaledl.data.tags import tags_of_tokens
from scaledl.data.tokenizer import build_tokenizer, set_length
from scaledl.runtime.columns import TableColumn
from scaledl.runtime.tokens import PADDING_ID, encode

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_AT_A_TIME = 4096  # texts


class StreamTexts:
    """All texts of a stream, in the order of its shards, of which one is open at a time."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __len__(self) -> int:
        return len(self._stream)

    def __iter__(self) -> Iterator[str]:
        return (text for part in self.parts() for text in part)

    def parts(self) -> Iterator[list[str]]:
        """Some thousand at a time."""
        for shard in self._stream.shards():
            for rows in torch.arange(len(shard)).split(_AT_A_TIME):
                yield shard.texts(rows)


def with_features(stream: Stream, columns: Sequence[TableColumn], in_shape: tuple[int, ...], *, codes: bool) -> Stream:
    """The rows of a table as `features_of` gives them."""

    def features(shards: Sequence[Shard], rows: Sequence[Tensor]) -> Tensor:
        return features_of(gathered(shards, rows, "features"), columns, codes=codes)

    inputs = Field("features", np.dtype(np.float32), in_shape)
    return _with(stream, inputs=inputs, inputs_fn=features)


def with_tokens(stream: Stream, config: TextConfig, *, tagged: bool) -> tuple[Stream, Tokenizer, int]:
    """Texts as token ids, and a tag for each token where words have one; the tokenizer, and how many tokens a sample
    has: as `tokenize` gives them of the same texts.

    Shards are read before training begins: all of them for a tokenizer that is made of the texts, then as many as it
    takes to see a text of `max_length` tokens.
    """
    texts = StreamTexts(stream)
    tokenizer = build_tokenizer(texts, config)
    set_length(tokenizer, config.max_length)
    length = _longest(tokenizer, texts, config.max_length)
    set_length(tokenizer, length)

    def tokens(shards: Sequence[Shard], rows: Sequence[Tensor]) -> Tensor:
        return encode(tokenizer, texts_of(shards, rows), length)

    def tags(shards: Sequence[Shard], rows: Sequence[Tensor]) -> Tensor:
        return tags_of_tokens(tokenizer, texts_of(shards, rows), gathered(shards, rows, "labels"), length)

    made = _with(stream, inputs=Field("tokens", np.dtype(np.int32), (length,)), inputs_fn=tokens)
    if tagged:
        made = _with(made, labels=Field("tags", np.dtype(np.int64), (length,)), labels_fn=tags)
    return made, tokenizer, length


def _longest(tokenizer: Tokenizer, texts: StreamTexts, most: int) -> int:
    """Tokens of the longest text, at most `most`, and one at least."""
    found = 1
    for part in texts.parts():
        found = max(found, int((encode(tokenizer, part, most) != PADDING_ID).sum(1).max()))
        if found == most:
            break
    return found


def _with(stream: Stream, **changes: object) -> Stream:
    return dataclasses.replace(stream, samples=dataclasses.replace(stream.samples, **changes))  # type: ignore[arg-type]
