"""Tokenizers: made from the training texts, or a file of Hugging Face's library; later all are their JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from scaledl.config.schema import TextConfig
from scaledl.data.padding_first import padding_first
from scaledl.errors import UsageError, require_extra
from scaledl.runtime.tokens import PADDING_ID, parse_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PADDING, UNKNOWN = SPECIAL = ("[PAD]", "[UNK]")  # 0 and 1, before all others
_MASKS = ("[MASK]", "<mask>")
_BYTES = 256


class TextSource(Protocol):
    """Texts that need not be in memory."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[str]: ...


def build_tokenizer(texts: TextSource, config: TextConfig) -> Tokenizer:
    """What turns texts into ids, learned from `texts` where there is something to learn; the same for the same texts.

    Raises UsageError for a file that is no tokenizer, a vocabulary that is too small, or without the library.
    """
    require_extra("tokenizers", "models")
    made = _KINDS.get(config.tokenizer, _of_file)(texts, config)
    tokenizer: Any = parse_tokenizer(made.to_str(), "data.text.tokenizer")
    tokenizer.moved = moved_id(made)
    return tokenizer  # type: ignore[no-any-return]


def moved_id(tokenizer: Any) -> int:
    """`Inputs.moved` of the tokenizer that `build_tokenizer` made: the id of the token that was 0 in its file."""
    return int(getattr(tokenizer, "moved", 0))


def set_length(tokenizer: Tokenizer, length: int) -> None:
    """Cut and pad to so many tokens. Raises UsageError where those that begin and end a text leave no room."""
    least = tokenizer.num_special_tokens_to_add(is_pair=False) + 1
    if length < least:
        raise UsageError(
            f"data.text.max_length: got {length}; allowed: at least {least}, as this tokenizer puts {least - 1} "
            "special tokens around a text"
        )
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=PADDING_ID, pad_token=tokenizer.id_to_token(PADDING_ID) or PADDING)


def vocabulary_of(tokenizer: Tokenizer) -> int:
    """How many ids a model has to know: one more than the largest."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def special_ids(content: str) -> tuple[int, ...]:
    """Ids of a tokenizer's JSON that stand for no part of a text, such as those that begin and end one."""
    unknown = _unk(content)
    return tuple(token["id"] for token in _added(content) if token.get("special") and token["id"] != unknown)


def mask_id(content: str) -> int:
    """The id that hides a token: that of [MASK] where a tokenizer's JSON has one, else of an unknown token."""
    found = [token["id"] for token in _added(content) if token["content"] in _MASKS]
    return found[0] if found else _unk(content)


def _added(content: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(content)["added_tokens"]
    return found


def _unk(content: str) -> int:
    model = json.loads(content)["model"]
    name, known = model.get("unk_token"), model.get("vocab", {})
    return known.get(name, 1) if isinstance(known, dict) else int(model.get("unk_id") or 0)


def _of_characters(texts: TextSource, config: TextConfig) -> Tokenizer:
    """The most frequent characters, equal counts by their number."""
    from tokenizers import normalizers

    lower = normalizers.Lowercase()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(lower.normalize_str(text) if config.lowercase else text)
    by_count = sorted(counts, key=lambda letter: (-counts[letter], letter))
    return _of_pieces(by_count[: config.vocabulary - len(SPECIAL)], config)


def _of_bytes(texts: TextSource, config: TextConfig) -> Tokenizer:
    """Byte b is id b + 2."""
    from tokenizers import decoders

    tokenizer = _of_pieces([f"<0x{byte:02X}>" for byte in range(_BYTES)], config, byte_fallback=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _of_pieces(pieces: Sequence[str], config: TextConfig, *, byte_fallback: bool = False) -> Tokenizer:
    """Byte-pair encoding without a pair: what a text consists of, one by one."""
    from tokenizers import Tokenizer, decoders, models

    known = {piece: number for number, piece in enumerate((*SPECIAL, *pieces))}
    tokenizer = Tokenizer(models.BPE(vocab=known, merges=[], unk_token=UNKNOWN, byte_fallback=byte_fallback))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([PADDING])  # which decoding leaves out
    return _lowercased(tokenizer, config)


def _of_words(texts: TextSource, config: TextConfig) -> Tokenizer:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordLevel(vocab={}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(vocab_size=config.vocabulary, special_tokens=list(SPECIAL), show_progress=False)
    return _trained(tokenizer, texts, trainer, config)


def _of_pairs(texts: TextSource, config: TextConfig) -> Tokenizer:
    """Byte-level byte-pair encoding (Radford et al. 2019): every text is some sequence of its tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    least = len(SPECIAL) + _BYTES
    if config.vocabulary < least:
        raise UsageError(
            f"data.text.vocabulary: got {config.vocabulary} with data.text.tokenizer=bpe; allowed: at least {least}, "
            "every byte and the two special ones"
        )
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    return _trained(tokenizer, texts, trainer, config)


def _trained(tokenizer: Tokenizer, texts: TextSource, trainer: Any, config: TextConfig) -> Tokenizer:
    _lowercased(tokenizer, config).train_from_iterator(texts, trainer, length=len(texts))
    return tokenizer


def _lowercased(tokenizer: Tokenizer, config: TextConfig) -> Tokenizer:
    from tokenizers import normalizers

    if config.lowercase:
        before = [tokenizer.normalizer] if tokenizer.normalizer else []
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])
    return tokenizer


def _of_file(texts: TextSource, config: TextConfig) -> Tokenizer:
    """As it stands in the file, but for lengths, capitals, and which id is 0 (`padding_first`)."""
    path = Path(config.tokenizer).expanduser()
    try:
        tokenizer = parse_tokenizer(path.read_text(encoding="utf-8"), f"data.text.tokenizer: {path}")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8"
        raise UsageError(f"data.text.tokenizer: {path}: cannot be read: {reason}") from error
    padding = tokenizer.padding["pad_id"] if tokenizer.padding else _padding_of(tokenizer)
    moved = 0
    if padding != PADDING_ID:
        where = f"data.text.tokenizer: {path}"
        content, moved = padding_first(tokenizer.to_str(), padding, where)
        tokenizer = parse_tokenizer(content, where)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    lowercased: Any = _lowercased(tokenizer, config)
    lowercased.moved = moved
    return lowercased  # type: ignore[no-any-return]


def _padding_of(tokenizer: Tokenizer) -> int | None:
    found = (tokenizer.token_to_id(token) for token in (PADDING, "<pad>"))
    return next((number for number in found if number is not None), None)


_KINDS = {"char": _of_characters, "byte": _of_bytes, "word": _of_words, "bpe": _of_pairs}
