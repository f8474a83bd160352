"""Texts as a model's inputs: the samples of a set, or windows of one long text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scaledl.config.schema import DataConfig, TextConfig
from scaledl.data.arrays import Arrays, DataSpec, Target, fingerprint
from scaledl.data.datamodule import DataModule
from scaledl.data.long_text import LongText, windows
from scaledl.data.prepare.items import SPLITS
from scaledl.data.prepare.sources import find_files
from scaledl.data.tokenizer import build_tokenizer, moved_id, set_length, vocabulary_of
from scaledl.errors import UsageError
from scaledl.runtime.tokens import PADDING_ID, encode

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def load_text(config: DataConfig) -> DataModule:
    """A file of text, or a folder of .txt files, in windows of `data.text.max_length` tokens; there are no labels.

    The last part is the test split, the part before it the validation split, unless files are named train, val or test.

    Raises UsageError for files that cannot be used, or too little text.
    """
    if config.root is None:
        raise UsageError("data.root: missing; with data.source=text give a text file, or a folder of .txt files")
    root = Path(config.root).expanduser()
    texts = _parts(root, config)
    tokenizer = build_tokenizer(texts["train"], config.text)
    splits, first = {}, 0
    for split in SPLITS:
        inputs = windows(texts[split], tokenizer, config.text, f"data.root: {root}: its {split}")
        ids = torch.arange(first, first + len(inputs))
        splits[split] = Arrays(inputs, torch.zeros(len(inputs), dtype=torch.int64), ids)
        first += len(inputs)
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
        moved=moved_id(tokenizer),
    )


def _parts(root: Path, config: DataConfig) -> dict[str, LongText]:
    """The text of each split."""
    if not root.exists():
        raise UsageError(f"data.root: {root}: no such file or folder")
    named: dict[str, list[Path]] = {}
    for split, path in find_files(root, (".txt",)):
        named.setdefault(split or "train", []).append(path)
    parts = {split: LongText.of(paths) for split, paths in named.items()}
    if "train" not in parts:
        raise UsageError(f"data.root: {root} has files named {' and '.join(parts)}, and none of the training split")
    for split, fraction in (("test", config.text.test_fraction), ("val", config.val_fraction)):
        if split not in parts:
            parts["train"], parts[split] = parts["train"].cut(fraction)
    return parts
