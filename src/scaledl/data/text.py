"""Texts as a model's inputs: the samples of a set, or windows of one long text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from scaledl.data.windows import ANOTHER, Tokens, Windows
from scaledl.errors import UsageError
from scaledl.runtime.tokens import PADDING_ID, CutOff, encode

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
    return DataModule(
        text_spec(root.stem, splits, (), "none", tokenizer), splits["train"], splits["val"], splits["test"]
    )


@dataclass(frozen=True, eq=False)
class Tokenized:
    """Texts of every split as a model's inputs.

    Attributes:
        inputs: int32 [N, T].
        texts: of windows, the number of the text that each is of, int64 [N]; else None.
        numbers: of windows, their own numbers in the text.
        tokenizer: cuts and pads to T.
        note: what became of texts that are longer; "" where none is.
    """

    inputs: Mapping[str, Tensor]
    tokenizer: Tokenizer
    note: str = ""
    texts: Mapping[str, Tensor] | None = None
    numbers: Mapping[str, Tensor] | None = None

    @property
    def has_windows(self) -> bool:
        """Whether some text has several."""
        return self.numbers is not None and (bool(self.note) or any(bool(one.any()) for one in self.numbers.values()))

    def arrays(self, split: str, labels: Tensor, ids: Tensor) -> Arrays:
        """`labels`, `ids`: of the split's texts."""
        if self.texts is None or self.numbers is None:
            return Arrays(self.inputs[split], labels, ids)
        texts, numbers = self.texts[split], self.numbers[split]
        return Arrays(self.inputs[split], labels[texts], ids[texts] + ANOTHER * numbers)


def in_windows(config: TextConfig, target: Target) -> bool:
    """Whether texts of more tokens than a sample become windows. Raises UsageError for targets that cannot be."""
    if config.overlong == "windows" and target == "tags":
        raise UsageError(
            "data.text.overlong: got windows, and the words of a text have tags, which are learned from whole texts; "
            "allowed: auto, cut; fix: raise data.text.max_length, or prepare shorter texts"
        )
    return config.overlong == "windows" or (config.overlong == "auto" and target == "none")


def windowed(texts: Mapping[str, Sequence[str]], config: TextConfig) -> Tokenized:
    """As `tokenize`, but that of texts of more tokens all of them are in windows."""
    tokenizer = build_tokenizer(texts["train"], config)
    tokens = {split: Tokens.of(texts[split], tokenizer) for split in texts}
    set_length(tokenizer, config.max_length)
    length = length_of(int(tokens["train"].sizes.max()), config)
    set_length(tokenizer, length)
    windows = Windows.of(config, length)
    found = {split: tokens[split].cut(windows) for split in texts}
    inputs, places, numbers = ({split: parts[i] for split, parts in found.items()} for i in range(3))
    note = windows.note(tokens["train"].sizes)
    return Tokenized(inputs, tokenizer, note, places, numbers)


def cut_off(texts: Mapping[str, Sequence[str]], config: TextConfig, target: Target) -> Tokenized:
    """As `tokenize`, with a note on what is lost."""
    lost = CutOff()
    inputs, tokenizer = tokenize(texts, config, lost)
    return Tokenized(inputs, tokenizer, note_of(lost, inputs["train"], target))


def length_of(longest: int, config: TextConfig) -> int:
    """Tokens of a sample, where the longest training text has so many."""
    return max(1, min(longest, config.max_length))


def note_of(cut_off: CutOff, tokens: Tensor, target: Target, what: str = "training texts") -> str:
    """On what was cut off when `tokens`, int32 [N, T], were made of texts; "" where it is nothing."""
    if not cut_off.texts:
        return ""
    share = cut_off.tokens / (int((tokens != PADDING_ID).sum()) + cut_off.tokens)
    fix = "" if target == "tags" else ", data.text.overlong=windows all"
    return (
        f"texts: {cut_off.texts:,} of {len(tokens):,} {what} have more than {tokens.shape[1]:,} tokens and are cut "
        f"there, which loses {100 * share:.3g} % of all tokens; data.text.max_length keeps more of them{fix}"
    )


def tokenize(
    texts: Mapping[str, Sequence[str]], config: TextConfig, lost: CutOff | None = None
) -> tuple[dict[str, Tensor], Tokenizer]:
    """Token ids of every split's texts, int32 [N, T], by a tokenizer made from the training split.

    T is `max_length`, or less where no training text has so many tokens. `lost` counts what is cut off in training.
    """
    tokenizer = build_tokenizer(texts["train"], config)
    set_length(tokenizer, config.max_length)
    train = encode(tokenizer, texts["train"], config.max_length, cut_off=lost)
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
