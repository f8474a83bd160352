"""Streams whose samples are made of what their shards hold: tables with categories, and texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scaledl.config.schema import DataConfig, TextConfig
from scaledl.console import get_console
from scaledl.data.arrays import Target
from scaledl.data.stored import Field
from scaledl.data.stream.counts import counted_once
from scaledl.data.stream.remote import cache_of
from scaledl.data.stream.samples import gathered, texts_of
from scaledl.data.stream.shard import NUMBERS, TEXTS, Shard
from scaledl.data.stream.split import Stream
from scaledl.data.table_features import features_of
from scaledl.data.tags import tags_of_tokens
from scaledl.data.text import Tokenized, in_windows, length_of, note_of
from scaledl.data.tokenizer import build_tokenizer, set_length
from scaledl.data.windows import ANOTHER, PIECE, Tokens, Windows, places_of, whole_texts
from scaledl.runtime.columns import TableColumn
from scaledl.runtime.tokens import PADDING_ID, CutOff, encode, parse_tokenizer

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


def with_tokens(
    stream: Stream, texts: Mapping[str, Sequence[str]], config: DataConfig, target: Target, fingerprint: str
) -> tuple[Stream, Tokenized]:
    """Texts as token ids, and a tag for each token where words have one; and those of the other splits: as `cut_off`
    and `windowed` give them of the same texts.

    Shards are read before training begins: all of them for a tokenizer that is made of the texts, and for windows,
    else as many as it takes to see a text of `max_length` tokens.

    Args:
        texts: of the splits that are in memory.
        fingerprint: of the set.
    """
    into_windows = in_windows(config.text, target)
    tokenizer = build_tokenizer(StreamTexts(stream), config.text)
    if into_windows:
        return _in_windows(stream, texts, tokenizer, config, fingerprint)
    return _cut_off(stream, texts, tokenizer, config.text, target)


def _cut_off(
    stream: Stream, texts: Mapping[str, Sequence[str]], tokenizer: Tokenizer, config: TextConfig, target: Target
) -> tuple[Stream, Tokenized]:
    streamed = StreamTexts(stream)
    set_length(tokenizer, config.max_length)
    length = _longest(tokenizer, streamed, config.max_length)
    set_length(tokenizer, length)

    def tokens(shards: Sequence[Shard], rows: Sequence[Tensor]) -> Tensor:
        return encode(tokenizer, texts_of(shards, rows), length)

    def tags(shards: Sequence[Shard], rows: Sequence[Tensor]) -> Tensor:
        return tags_of_tokens(tokenizer, texts_of(shards, rows), gathered(shards, rows, "labels"), length)

    made = _with(stream, inputs=_tokens_of(length), inputs_fn=tokens)
    if target == "tags":
        made = _with(made, labels=Field("tags", np.dtype(np.int64), (length,)), labels_fn=tags)
    first, lost = next(streamed.parts()), CutOff()
    what = "training texts" if len(first) == len(stream) else f"texts (the first of {len(stream):,} for training)"
    note = note_of(lost, encode(tokenizer, first, length, cut_off=lost), target, what)
    return made, Tokenized({split: encode(tokenizer, texts[split], length) for split in texts}, tokenizer, note)


def _in_windows(
    stream: Stream, texts: Mapping[str, Sequence[str]], tokenizer: Tokenizer, config: DataConfig, fingerprint: str
) -> tuple[Stream, Tokenized]:
    content = tokenizer.to_str()
    whole = parse_tokenizer(content, "data.text.tokenizer")  # what set_length changes is the other one
    key = "\n".join((fingerprint, version("tokenizers"), str(PIECE), content))
    sizes = counted_once(cache_of(config) / "tokens", key, len(stream), lambda: _sizes(StreamTexts(stream), whole))
    set_length(tokenizer, config.text.max_length)
    length = length_of(int(sizes.max()), config.text)
    set_length(tokenizer, length)
    windows = Windows.of(config.text, length)
    counts = windows.count(sizes).int().split(list(stream.counts))
    made = _with(stream, inputs=_tokens_of(length), inputs_fn=_WindowsOfTexts(whole, windows))
    made = dataclasses.replace(
        made,
        opened_fn=lambda number, shard: shard.cut_up_(counts[number]),
        sizes=[int(one.sum()) for one in counts],
        index_fn=None if stream.index_fn is None else lambda: _index_of_windows(stream, torch.cat(counts)),
    )
    others = {split: Tokens.of(texts[split], whole).cut(windows) for split in texts}
    inputs, places, numbers = ({split: parts[i] for split, parts in others.items()} for i in range(3))
    return made, Tokenized(inputs, tokenizer, windows.note(sizes), places, numbers)


def _sizes(texts: StreamTexts, whole: Tokenizer) -> Tensor:
    """int32 [N], tokens of each."""
    with get_console().progress("count tokens", len(texts), unit="text") as progress:
        found = torch.empty(len(texts), dtype=torch.int32)
        for place, tokens in enumerate(whole_texts(texts, whole)):
            found[place] = len(tokens)
            progress.advance(1)
    return found


def _index_of_windows(stream: Stream, counts: Tensor) -> tuple[Tensor, Tensor]:
    texts, numbers = places_of(counts)
    return stream.ids[texts] + ANOTHER * numbers, stream.labels[texts]


class _WindowsOfTexts:
    """Tokens of windows. Texts that have several are kept as tokens for as long as their shard is open."""

    def __init__(self, whole: Tokenizer, windows: Windows) -> None:
        self._whole, self._windows = whole, windows
        self._kept: WeakKeyDictionary[Shard, dict[int, NDArray[np.int32]]] = WeakKeyDictionary()

    def __call__(self, shards: Sequence[Shard], rows: Sequence[Tensor]) -> Tensor:
        parts = [self._of_shard(shard, part) for shard, part in zip(shards, rows, strict=True)]
        return torch.from_numpy(np.concatenate(parts))

    def _of_shard(self, shard: Shard, rows: Tensor) -> NDArray[np.int32]:
        texts, numbers = (shard.parts[part][rows].tolist() for part in (TEXTS, NUMBERS))
        tokens = self._tokens(shard, texts)
        found = np.full((len(rows), self._windows.length), PADDING_ID, np.int32)
        for row, text, number in zip(found, texts, numbers, strict=True):
            begin = number * self._windows.stride
            window = tokens[text][begin : begin + self._windows.length]
            row[: len(window)] = window
        return found

    def _tokens(self, shard: Shard, texts: Sequence[int]) -> dict[int, NDArray[np.int32]]:
        """Of each text all of them."""
        kept = self._kept.setdefault(shard, {})
        new = sorted(set(texts) - kept.keys())
        found = dict(zip(new, whole_texts(shard.texts(torch.tensor(new)), self._whole), strict=True)) if new else {}
        kept |= {text: tokens for text, tokens in found.items() if len(tokens) > self._windows.length}
        return {**found, **{text: kept[text] for text in texts if text in kept}}


def _tokens_of(length: int) -> Field:
    return Field("tokens", np.dtype(np.int32), (length,))


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
