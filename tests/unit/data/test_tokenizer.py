"""Tokenizers: what each kind makes of a text, that all are the same JSON from the same texts, and files of others."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from scaledl.config.schema import TextConfig
from scaledl.data.tokenizer import build_tokenizer, mask_id, moved_id, set_length, special_ids, vocabulary_of
from scaledl.errors import UsageError
from scaledl.runtime.tokens import encode, parse_tokenizer

pytestmark = pytest.mark.unit

TEXTS = ["the cat sat on the mat", "The dog, the bone!", "ab ba the"]
KINDS = ("char", "byte", "word", "bpe")


def ids(text: str, texts: list[str] = TEXTS, length: int = 30, **keys: Any) -> list[int]:
    """Of a text without its padding, by a tokenizer made from `texts`."""
    tokenizer = build_tokenizer(texts, TextConfig(**keys))
    set_length(tokenizer, length)
    [row] = encode(tokenizer, [text], length).tolist()
    assert len(row) == length
    while row and row[-1] == 0:
        row.pop()
    return row


def test_a_byte_is_its_value_and_two() -> None:
    assert ids("hé\n", tokenizer="byte") == [byte + 2 for byte in "hé\n".encode()]


def test_characters_are_numbered_by_how_often_they_come_and_unknown_ones_are_1() -> None:
    assert ids("ab ba", ["bb a", "b"], tokenizer="char") == [4, 2, 3, 2, 4]
    assert ids("b☃a", ["bb a", "b"], tokenizer="char") == [2, 1, 4]
    assert ids("ba", ["bb a", "b"], tokenizer="char", vocabulary=3) == [2, 1]


def test_words_and_signs_are_numbered_by_how_often_they_come() -> None:
    assert ids("the, cat!", ["the the , cat the ,"], tokenizer="word") == [2, 3, 4, 1]
    assert ids("THE", ["the The"], tokenizer="word", lowercase=True) == [2]
    assert ids("The", ["the the"], tokenizer="word") == [1]


def test_pairs_of_bytes_say_every_text_again_in_fewer_tokens() -> None:
    tokenizer = build_tokenizer(TEXTS * 5, TextConfig(tokenizer="bpe", vocabulary=300))
    found = tokenizer.encode("the mat ☃ é").ids
    assert tokenizer.decode(found) == "the mat ☃ é"
    assert len(found) < len("the mat ☃ é".encode())
    assert vocabulary_of(tokenizer) <= 300


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_what_loses_nothing_comes_back(kind: str) -> None:
    tokenizer = build_tokenizer(TEXTS, TextConfig(tokenizer=kind))
    set_length(tokenizer, 40)
    [row] = encode(tokenizer, [TEXTS[1]], 40).tolist()
    assert tokenizer.decode(row) == TEXTS[1], "padding is left out"


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_in_a_text_are_its_own_signs(kind: str) -> None:
    plain = ids("[PAD] the [UNK]", [*TEXTS, "[ P A D U N K ]"], tokenizer=kind)
    assert 0 not in plain
    assert len(plain) >= 7


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_texts_give_the_same_json(kind: str) -> None:
    texts = [f"word{i * i % 97} and{i % 13} more" for i in range(400)]  # many counts are equal
    made = [build_tokenizer(texts, TextConfig(tokenizer=kind, vocabulary=320)).to_str() for _ in range(5)]
    assert len(set(made)) == 1  # though each hashes its words anew
    assert build_tokenizer(texts[::-1], TextConfig(tokenizer=kind, vocabulary=320)).to_str() == made[0]


def test_json_is_all_of_a_tokenizer() -> None:
    tokenizer = build_tokenizer(TEXTS, TextConfig(tokenizer="word", lowercase=True))
    set_length(tokenizer, 6)
    again = parse_tokenizer(tokenizer.to_str(), "here")
    assert encode(again, TEXTS, 6).tolist() == encode(tokenizer, TEXTS, 6).tolist()
    assert encode(again, [], 6).shape == (0, 6)


def write_file(path: Path, *, padding: str = "[PAD]") -> Path:
    """A tokenizer as pretrained models have: words between [CLS] and [SEP], with a [MASK]."""
    names = [padding, "[CLS]", "[SEP]", "[MASK]", "[UNK]", "the", "cat"]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(names[:5])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=3)
    tokenizer.save(str(path))
    return path


def test_a_file_is_taken_as_it_is_but_for_lengths(tmp_path: Path) -> None:
    name = str(write_file(tmp_path / "own.json"))
    assert ids("the dog the cat", tokenizer=name) == [1, 5, 4, 5, 6, 2]
    assert ids("the dog the cat", tokenizer=name, length=4) == [1, 5, 4, 2]
    assert ids("THE", tokenizer=name) == [1, 4, 2]
    assert ids("THE", tokenizer=name, lowercase=True) == [1, 5, 2]
    content = Path(name).read_text()
    assert special_ids(content) == (0, 1, 2, 3)
    assert mask_id(content) == 3
    assert mask_id(build_tokenizer(TEXTS, TextConfig()).to_str()) == 1
    assert special_ids(build_tokenizer(TEXTS, TextConfig()).to_str()) == (0,)


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "latin.json").write_bytes(b"\xff")
    other = write_file(tmp_path / "other.json", padding="nothing")
    for name, reason in (
        ("absent.json", "cannot be read: No such file"),
        ("list.json", "no tokenizer of Hugging Face's library"),
        ("latin.json", "cannot be read: no UTF-8"),
    ):
        with pytest.raises(UsageError, match=f"data.text.tokenizer: .*{name}: {reason}"):
            build_tokenizer(TEXTS, TextConfig(tokenizer=str(tmp_path / name)))
    other.write_text(Tokenizer(models.Unigram([("a", 0.0), ("b", 0.0)], unk_id=0)).to_str())
    with pytest.raises(UsageError, match=r"has no padding token, and its vocabulary \(Unigram\) cannot be put in"):
        build_tokenizer(TEXTS, TextConfig(tokenizer=str(other)))
    with pytest.raises(UsageError, match=r"data\.text\.vocabulary: got 200 .* allowed: at least 258"):
        build_tokenizer(TEXTS, TextConfig(tokenizer="bpe", vocabulary=200))
    with pytest.raises(UsageError, match=r"data\.text\.max_length: got 2; allowed: at least 3"):
        set_length(build_tokenizer(TEXTS, TextConfig(tokenizer=str(write_file(tmp_path / "own.json")))), 2)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tokenizers" else found(name))
    with pytest.raises(UsageError, match=r"pip install 'scaledl\[models\]'"):
        build_tokenizer(TEXTS, TextConfig())


def roberta_like() -> Tokenizer:
    """Padding is 1, as RoBERTa has it."""
    words = ("<s>", "<pad>", "</s>", "<unk>", "good", "bad")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def test_padding_with_another_id_changes_places_with_0(tmp_path: Path) -> None:
    roberta_like().save(str(tmp_path / "t.json"))
    tokenizer = build_tokenizer([], TextConfig(tokenizer=str(tmp_path / "t.json")))
    set_length(tokenizer, 6)
    assert moved_id(tokenizer) == 1
    assert tokenizer.encode("good bad").ids == [1, 4, 5, 2, 0, 0]
    assert tokenizer.decode([1, 4, 5, 2, 0, 0]) == "good bad"
    assert special_ids(tokenizer.to_str()) == (0, 1, 2)
    assert vocabulary_of(tokenizer) == 6


def test_without_a_padding_token_a_new_one_comes_before_all(tmp_path: Path) -> None:
    plain = Tokenizer(models.WordLevel({"good": 0, "bad": 1, "<end>": 2}, "bad"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.add_special_tokens(["<end>"])
    plain.add_tokens(["extra"])  # behind the model's own vocabulary
    plain.save(str(tmp_path / "t.json"))
    tokenizer = build_tokenizer([], TextConfig(tokenizer=str(tmp_path / "t.json")))
    set_length(tokenizer, 5)
    assert (moved_id(tokenizer), vocabulary_of(tokenizer)) == (4, 5)
    assert tokenizer.encode("good bad extra").ids == [4, 1, 3, 0, 0]
