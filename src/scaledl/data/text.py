"""Texts as a model's inputs: the samples of a set, or windows of one long text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from scaledl.config.schema import DataConfig, TextConfig
from scaledl.data.arrays import Arrays, DataSpec, Target, fingerprint
from scaledl.data.datamodule import DataModule
from scaledl.data.prepare.items import SPLITS
from scaledl.data.prepare.sources import find_files
from scaledl.data.tokenizer import build_tokenizer, set_length, vocabulary_of
from scaledl.errors import UsageError
from scaledl.runtime.tokens import PADDING_ID, encode, token_ids

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_PIECE = 1 << 16  # characters of a long text that are tokenised at a time


def load_text(config: DataConfig) -> DataModule:
    """A file of text, or a folder of .txt files, in windows of `data.text.max_length` tokens; there are no labels.

    The last part is the test split, the part before it the validation split, unless files are named train, val or test.

    Raises UsageError for files that cannot be used, or too little text.
    """
    if config.root is None:
        raise UsageError("data.root: missing; with data.source=text give a text file, or a folder of .txt files")
    root = Path(config.root).expanduser()
    texts = _parts(root, config)
    pieces = {split: _pieces(text) for split, text in texts.items()}
    tokenizer = build_tokenizer(pieces["train"], config.text)
    splits, first = {}, 0
    for split in SPLITS:
        windows = _windows(_stream(tokenizer, pieces[split], root, split), config.text)
        ids = torch.arange(first, first + len(windows))
        splits[split] = Arrays(windows, torch.zeros(len(windows), dtype=torch.int64), ids)
        first += len(windows)
    set_length(tokenizer, config.text.max_length)
    return DataModule(text_spec(root.stem, splits, (), "none", tokenizer), **splits)


def tokenize(texts: Mapping[str, Sequence[str]], config: TextConfig) -> tuple[dict[str, Tensor], Tokenizer]:
    """Token ids of every split's texts, int32 [N, T], by a tokenizer made from the training split.

    T is `max_length`, or less where no training text has so many tokens.
    """
    tokenizer = build_tokenizer(texts["train"], config)
    set_length(tokenizer, config.max_length)
    train = encode(tokenizer, texts["train"], config.max_length)
    length = max(1, int((train != PADDING_ID).sum(1).max()))
    set_length(tokenizer, length)
    others = {split: encode(tokenizer, texts[split], length) for split in texts if split != "train"}
    return {"train": train[:, :length].contiguous(), **others}, tokenizer


def text_spec(
    source: str,
    splits: Mapping[str, Arrays],
    labels: tuple[str, ...],
    target: Target,
    tokenizer: Tokenizer,
    known: str = "",
) -> DataSpec:
    """What there is to know of splits whose inputs this tokenizer made. `known`: the fingerprint of what it made them
    of, where some are in shards."""
    content = tokenizer.to_str()
    mark = hashlib.sha256((known + content).encode()).hexdigest() if known else fingerprint(splits, labels, content)
    return DataSpec(
        source=source,
        in_shape=tuple(splits["val"].inputs.shape[1:]),
        labels=labels,
        mean=(),
        std=(),
        fingerprint=mark,
        kind="text",
        target=target,
        tokenizer=content,
        vocabulary=vocabulary_of(tokenizer),
    )


def _parts(root: Path, config: DataConfig) -> dict[str, str]:
    """The text of each split."""
    if not root.exists():
        raise UsageError(f"data.root: {root}: no such file or folder")
    named: dict[str, list[str]] = {}
    for split, path in find_files(root, (".txt",)):
        named.setdefault(split or "train", []).append(_read(path))
    parts = {split: "".join(texts) for split, texts in named.items()}
    if "train" not in parts:
        raise UsageError(f"data.root: {root} has files named {' and '.join(parts)}, and none of the training split")
    for split, fraction in (("test", config.text.test_fraction), ("val", config.val_fraction)):
        if split not in parts:
            parts["train"], parts[split] = _cut(parts["train"], fraction)
    return parts


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: byte {error.start} is {error.object[error.start]:#04x}, which is no UTF-8; "
            "fix: save the file as UTF-8"
        ) from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error


def _cut(text: str, fraction: float) -> tuple[str, str]:
    """What stays and the last part, about this share of the text, from the beginning of a line where there is one."""
    place = round(len(text) * (1 - fraction))
    line_end = text.find("\n", place, place + _PIECE)
    place = line_end + 1 if 0 <= line_end < len(text) - 1 else place
    return text[:place], text[place:]


def _pieces(text: str) -> list[str]:
    """Parts of about so many characters, to the end of a line where it is near: together they are the text."""
    pieces, start = [], 0
    while start < len(text):
        line_end = text.find("\n", start + _PIECE, start + 2 * _PIECE)
        stop = line_end + 1 if line_end >= 0 else start + _PIECE
        pieces.append(text[start:stop])
        start = stop
    return pieces


def _stream(tokenizer: Tokenizer, pieces: Sequence[str], root: Path, split: str) -> Tensor:
    """int32 [L]: all tokens of a split, by a tokenizer that cuts nothing yet."""
    parts = list(token_ids(tokenizer, pieces, special=False))
    tokens = np.concatenate(parts) if parts else np.empty(0, np.int32)
    if len(tokens) < 2:
        raise UsageError(f"data.root: {root}: its {split} split has {len(tokens)} tokens; allowed: at least 2")
    return torch.from_numpy(tokens)


def _windows(tokens: Tensor, config: TextConfig) -> Tensor:
    """int32 [N, T] of tokens [L], `stride` apart, to the last token; what is behind it is padding."""
    length = config.max_length
    stride = max(1, length - 1) if config.stride == "auto" else config.stride
    count = 1 + min(-(-max(0, len(tokens) - length) // stride), (len(tokens) - 2) // stride)
    padded = tokens.new_full(((count - 1) * stride + length,), PADDING_ID)
    used = tokens[: len(padded)]
    padded[: len(used)] = used
    return padded.unfold(0, length, stride).contiguous()
