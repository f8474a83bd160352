"""Texts as training takes them: a prepared set, and windows of one long text."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scaledl.api.datasets import describe_data
from scaledl.config import load_config
from scaledl.config.schema import AugmentConfig, DataConfig, PrepareConfig
from scaledl.data import DataModule, build_data, normalize
from scaledl.data.prepare.run import prepare
from scaledl.data.windows import ANOTHER
from scaledl.errors import ScaledlError, UsageError
from scaledl.runtime.tokens import encode, parse_tokenizer

pytestmark = pytest.mark.unit


def sentences(count: int = 90) -> list[tuple[str, str]]:
    words = ("fine", "good", "happy", "sad", "bad", "awful")
    return [
        (f"{words[i % 6]} number{i} " + "and " * (i % 7) + words[(i * 5) % 6], "up" if i % 6 < 3 else "down")
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("texts")
    with (place / "t.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *sentences()])
    prepare(place / "t.csv", place / "set", PrepareConfig(text="text", near_duplicates="keep"))
    return place / "set"


def load(folder: Path, source: str = "prepared", **text: Any) -> DataModule:
    return build_data(DataConfig.model_validate({"source": source, "root": str(folder), "text": text}), seed=0)


def texts_of(data: DataModule, split: str) -> list[str]:
    """What the tokens say, for tokenizers that lose nothing."""
    tokenizer = parse_tokenizer(data.spec.tokenizer, "spec")
    return [tokenizer.decode(row) for row in getattr(data, split).inputs.tolist()]


def test_a_prepared_set_of_texts_becomes_token_ids(folder: Path) -> None:
    data = load(folder, tokenizer="char")
    spec = data.spec
    assert (spec.source, spec.modality, spec.labels, spec.target) == ("set", "text", ("down", "up"), "class")
    longest = max(len(text) for text in texts_of(data, "train"))
    assert spec.in_shape == (longest,) == tuple(data.test.inputs.shape[1:])
    assert spec.inputs.vocabulary == spec.vocabulary == 2 + len(set("".join(texts_of(data, "train"))))
    known = dict(sentences())
    for split in ("train", "val", "test"):
        arrays = getattr(data, split)
        assert arrays.inputs.dtype == torch.int32
        for text, label in zip(texts_of(data, split), arrays.labels.tolist(), strict=True):
            assert known.get(text, "") == spec.labels[label] or split != "train"
    assert type(spec).from_dict(spec.to_dict()) == spec


def test_the_tokenizer_knows_the_training_split_alone(folder: Path) -> None:
    data = load(folder, tokenizer="word")
    vocabulary = parse_tokenizer(data.spec.tokenizer, "spec").get_vocab()
    words = {split: set(" ".join(texts_of(data, split)).split()) for split in ("train", "test")}
    assert {word for word in vocabulary if word.startswith("number")} <= words["train"]
    assert (data.test.inputs == 1).any(), "numbers that only the test split has are unknown"
    assert not (data.train.inputs == 1).any()


def test_texts_behind_a_url_are_the_same(folder: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    files, name = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}"
    files.put(str(folder), name, recursive=True)
    keys = {"source": "prepared", "root": f"memory:/{name}", "stream": {"cache": str(folder.parent / "cache")}}
    data = build_data(DataConfig.model_validate(keys), seed=0)
    files.rm(name, recursive=True)
    assert data.spec.fingerprint == load(folder).spec.fingerprint


@pytest.mark.parametrize("place", [0, 2])
def test_texts_that_do_not_lie_one_behind_the_other_are_refused(folder: Path, tmp_path: Path, place: int) -> None:
    shutil.copytree(folder, tmp_path / "set")
    path = tmp_path / "set" / "test-offsets.npy"
    offsets = np.load(path)
    offsets[place : place + 2] = offsets[place : place + 2][::-1].copy()
    np.save(path, offsets)
    with pytest.raises(UsageError, match=r"the texts of its test split are damaged; fix: prepare the data again"):
        load(tmp_path / "set")


def test_texts_are_cut_at_their_length(folder: Path) -> None:
    short, whole = (load(folder, tokenizer="char", max_length=length) for length in (5, 128))
    assert short.spec.in_shape == (5,)
    assert torch.equal(short.train.inputs, whole.train.inputs[:, :5])
    assert (short.train.inputs != 0).all()


def test_the_fingerprint_covers_tokens_and_tokenizer(folder: Path) -> None:
    found = [
        load(folder, **keys).spec.fingerprint
        for keys in ({}, {"tokenizer": "char"}, {"max_length": 3}, {"lowercase": True})
    ]
    assert len(set(found)) == 4, "also where lower case changes no token"
    assert load(folder).spec.fingerprint == found[0]


def test_a_batch_of_texts_is_what_a_model_takes(folder: Path) -> None:
    data = load(folder)
    batch = next(iter(data.train_loader(7, AugmentConfig(), seed=1)))
    assert (batch.x.dtype, batch.x.shape) == (torch.int64, (7, *data.spec.in_shape))
    whole = torch.cat([one.x for one in data.eval_loader("val", 4)])
    assert torch.equal(whole, normalize(data.val.inputs, data.spec))
    assert torch.equal(whole, data.val.inputs.long())


AUGMENT = AugmentConfig.model_validate({"text": {"drop": 0.3, "swap": 0.3, "mask": 0.2}})


def epoch(data: DataModule, batch_size: int, number: int = 0, state: dict | None = None, **ranks: int) -> dict:
    loader = data.train_loader(batch_size, AUGMENT, seed=3, **ranks)
    if state is not None:
        loader.load_state_dict(state)
    loader.set_epoch(number)
    return {int(i): x for batch in loader for i, x in zip(batch.ids, batch.x, strict=False)}


def same(one: dict[int, Tensor], other: dict[int, Tensor]) -> bool:
    return all(torch.equal(one[i], other[i]) for i in one.keys() & other.keys())


def test_augmented_tokens_depend_on_neither_batch_rank_nor_interruption(folder: Path) -> None:
    data = load(folder)
    whole = epoch(data, 64)
    ranks: dict = {}
    for rank in range(3):
        ranks |= epoch(data, 10, rank=rank, world_size=3)
    assert whole.keys() == ranks.keys() == set(data.train.ids.tolist())
    assert same(whole, ranks)
    state = {"epoch": 0, "consumed": 20, "n": len(data.train), "seed": 3, "global_batch": 10}
    rest = epoch(data, 7, state=state)
    assert list(rest) == list(whole)[20:]
    assert same(whole, rest)
    plain = {int(i): x for i, x in zip(data.train.ids, data.train.inputs, strict=True)}
    for other in (epoch(data, 64, 1), plain):
        assert sum(not torch.equal(whole[i], other[i]) for i in whole) > len(whole) / 2


@pytest.mark.parametrize("key", ["flip=true", "mixup=0.2", "series.noise=0.1"])
def test_what_texts_do_not_have_is_refused(folder: Path, key: str) -> None:
    augment = load_config(None, [f"data.augment.{key}"]).data.augment
    with pytest.raises(UsageError, match=r"modality text; allowed there: text; fix: remove data\.augment"):
        load(folder).train_loader(4, augment, seed=0)


def test_the_description_leaves_the_tokenizer_out(folder: Path) -> None:
    config = load_config(None, ["data.source=text", f"data.root={write(folder.parent / 'd.txt', 'ab ' * 200)}"])
    document = describe_data(config)
    assert (document["modality"], document["vocabulary"], document["classes"]) == ("text", 3, {})
    assert "tokenizer" not in document


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


LINES = "".join(f"line {i} of the text\n" for i in range(60))


def test_windows_of_a_long_text_say_it_again(tmp_path: Path) -> None:
    root = write(tmp_path / "long.txt", LINES)
    data = load(root, "text", tokenizer="byte", max_length=16)
    assert (data.spec.source, data.spec.target, data.spec.labels) == ("long", "none", ())
    assert (data.spec.in_shape, data.spec.vocabulary) == ((16,), 258)
    parts = []
    for split in ("train", "val", "test"):
        arrays = getattr(data, split)
        assert arrays.labels.tolist() == [0] * len(arrays)
        assert torch.equal(arrays.inputs[1:, 0], arrays.inputs[:-1, -1]), "each begins with the last token before it"
        assert (arrays.inputs[:-1] != 0).all()
        tokens = torch.cat([arrays.inputs[0], *(row[1:] for row in arrays.inputs[1:])])
        parts.append(bytes((tokens[tokens != 0] - 2).tolist()).decode())
    assert "".join(parts) == LINES
    assert all(part.endswith("\n") for part in parts)
    assert [round(len(part) / len(LINES), 1) for part in parts] == [0.8, 0.1, 0.1]
    ids = torch.cat([data.train.ids, data.val.ids, data.test.ids])
    assert ids.tolist() == list(range(len(ids)))


@pytest.mark.parametrize(
    ("length", "stride", "starts"), [(4, "auto", [0, 3, 6]), (4, 4, [0, 4, 8]), (4, 1, range(7)), (2, 5, [0, 5])]
)
def test_windows_reach_the_last_token_and_no_further(
    tmp_path: Path, length: int, stride: Any, starts: list[int]
) -> None:
    (tmp_path / "s").mkdir()
    for split in ("train", "val", "test"):
        write(tmp_path / "s" / f"{split}.txt", "abcdefghij")
    data = load(tmp_path / "s", "text", tokenizer="byte", max_length=length, stride=stride)
    rows = [bytes(max(0, token - 2) for token in row) for row in data.train.inputs.tolist()]
    assert rows == [b"abcdefghij"[start : start + length].ljust(length, b"\0") for start in starts]


def test_files_named_after_splits_are_these(tmp_path: Path) -> None:
    for name, text in (("train", "aaaa " * 40), ("test", "bbbb " * 4)):
        write(tmp_path / f"{name}.txt", text)
    data = load(tmp_path, "text", tokenizer="word", max_length=8)
    assert data.spec.vocabulary == 3
    assert (data.train.inputs[data.train.inputs > 0] == 2).all()
    assert (data.test.inputs[data.test.inputs > 0] == 1).all()
    assert (data.val.inputs[data.val.inputs > 0] == 2).all(), "cut from the training text"


def test_a_text_in_pieces_is_tokenised_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path / "long.txt", LINES)
    whole = load(root, "text", max_length=16)
    monkeypatch.setattr("scaledl.data.long_text.PIECE", 50)
    assert load(root, "text", max_length=16).spec.fingerprint == whole.spec.fingerprint


@pytest.mark.parametrize("size", [1, 3, 7])
def test_a_text_is_the_same_however_its_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Characters of several bytes lie on the borders of what is read at a time, and files on those of splits."""
    (tmp_path / "odd").mkdir()
    for number in range(3):
        write(tmp_path / f"odd/{number}.txt", "\ufeff" + "".join(f"wörter {number} – €{i}\n" for i in range(30)))
    whole = load(tmp_path / "odd", "text", max_length=16, tokenizer="char")
    monkeypatch.setattr("scaledl.data.long_text._BYTES", size)
    again = load(tmp_path / "odd", "text", max_length=16, tokenizer="char")
    assert again.spec.to_dict() == whole.spec.to_dict()
    read = "".join(parse_tokenizer(whole.spec.tokenizer, "x").decode(whole.train.inputs[0].tolist()))
    assert read.replace(" ", "").startswith("wörter0–€0")


def test_windows_that_overlap_take_no_more_memory_than_the_text(tmp_path: Path) -> None:
    root = write(tmp_path / "long.txt", LINES)
    data = load(root, "text", max_length=32, stride=1, tokenizer="byte")
    inputs = data.train.inputs
    assert inputs.untyped_storage().nbytes() == 4 * (len(inputs) + 31) < inputs.numel()
    assert torch.equal(inputs[5:20, 0], inputs[4, 1:16])
    batch = next(iter(data.train_loader(8, AugmentConfig(), 0)))
    assert torch.equal(batch.x, inputs[batch.ids].long())


@pytest.mark.parametrize("source", ["prepared", "text"])
def test_a_full_temporary_folder_is_one_message(
    books: Path, tmp_path: Path, tmpfs: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    root = books if source == "prepared" else write(tmp_path / "long.txt", LINES * 20)
    monkeypatch.setattr(tempfile, "tempdir", str(tmpfs("16k")))
    with pytest.raises(ScaledlError, match=r"cannot write the tokens of a text in .*no space left.*; fix: .*TMPDIR"):
        load(root, source, max_length=16, tokenizer="byte")


def test_the_spec_of_a_long_text_encodes_a_prompt(tmp_path: Path) -> None:
    data = load(write(tmp_path / "long.txt", LINES), "text", tokenizer="char", max_length=16)
    [row] = encode(parse_tokenizer(data.spec.tokenizer, "spec"), ["line"], 16).tolist()
    assert row[:4] == data.train.inputs[0, :4].tolist()
    assert row[4:] == [0] * 12


WORDS = [3, 90, 7, 40, 200] * 8  # of each text
BOOKS = [" ".join(f"w{book}x{word % 40}" for word in range(count)) for book, count in enumerate(WORDS)]


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts without labels, most of them long."""
    return written_books(tmp_path_factory.mktemp("books"), target="none")


def written_books(place: Path, **settings: Any) -> Path:
    rows = [{"text": text, **({} if "target" in settings else {"label": "ab"[i % 2]})} for i, text in enumerate(BOOKS)]
    write(place / "books.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    prepare(place / "books.jsonl", place / "set", PrepareConfig(text="text", near_duplicates="keep", **settings))
    return place / "set"


def as_said(data: DataModule, split: str) -> dict[int, list[int]]:
    """Of each text, by its id, the tokens that its windows say, one after the other."""
    arrays, found = getattr(data, split), {}
    for id, row in sorted(zip(arrays.ids.tolist(), arrays.inputs.tolist(), strict=True)):
        text, number = id % ANOTHER, id // ANOTHER
        tokens = [token for token in row if token]
        assert (number > 0) == (text in found)
        if number:
            assert found[text][-1] == tokens[0], "it begins with the last token of the one before"
        found.setdefault(text, []).extend(tokens[number > 0 :])
    return found


def test_prepared_texts_without_labels_lose_nothing(books: Path) -> None:
    data = load(books, max_length=16)
    whole = load(books, max_length=4096)
    assert (data.spec.in_shape, whole.spec.in_shape) == ((16,), (200,))
    assert data.spec.vocabulary == whole.spec.vocabulary
    known: set[int] = set()
    for split in ("train", "val", "test"):
        found = as_said(data, split)
        assert found == {
            id: [token for token in row if token]
            for id, row in zip(getattr(whole, split).ids.tolist(), getattr(whole, split).inputs.tolist(), strict=True)
        }
        ids = getattr(data, split).ids.tolist()
        assert len(known | set(ids)) == len(known) + len(ids)
        known |= set(ids)
    long = sum(len(tokens) > 16 for tokens in as_said(data, "train").values())
    assert data.note == (
        f"texts: {long} of {len(whole.train)} training texts have more than 16 tokens and become windows, 15 tokens "
        f"apart: {len(data.train)} samples"
    )
    assert whole.note == ""


@pytest.mark.parametrize("stride", [1, 5, 16, 40])
def test_windows_of_a_prepared_text_are_those_of_the_same_text_by_itself(tmp_path: Path, stride: int) -> None:
    for split in ("train", "val", "test"):
        (tmp_path / "one" / split).mkdir(parents=True)
        (tmp_path / "all").mkdir(exist_ok=True)
        for place in (tmp_path / f"one/{split}/book.txt", tmp_path / f"all/{split}.txt"):
            write(place, f"{split} " + BOOKS[1])
    prepare(tmp_path / "one", tmp_path / "set", PrepareConfig(target="none", near_duplicates="keep"))
    keys = {"tokenizer": "byte", "max_length": 16, "stride": stride}
    prepared, direct = load(tmp_path / "set", **keys), load(tmp_path / "all", "text", **keys)
    for split in ("train", "val", "test"):
        assert torch.equal(getattr(prepared, split).inputs, getattr(direct, split).inputs)


@pytest.mark.parametrize("tokenizer", ["char", "byte", "word", "bpe"])
@pytest.mark.parametrize("lines", [True, False])
def test_a_prepared_text_is_tokenised_in_the_pieces_of_a_long_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: str, lines: bool
) -> None:
    for module in ("long_text", "windows"):
        monkeypatch.setattr(f"scaledl.data.{module}.PIECE", 50)
    for split in ("train", "val", "test"):
        (tmp_path / "one" / split).mkdir(parents=True)
        (tmp_path / "all").mkdir(exist_ok=True)
        for place in (tmp_path / f"one/{split}/book.txt", tmp_path / f"all/{split}.txt"):
            write(place, LINES if lines else f"{split} " + LINES.replace("\n", " "))
    prepare(tmp_path / "one", tmp_path / "set", PrepareConfig(target="none", duplicates="keep", near_duplicates="keep"))
    keys = {"tokenizer": tokenizer, "max_length": 16, "vocabulary": 300}
    prepared, direct = load(tmp_path / "set", **keys), load(tmp_path / "all", "text", **keys)
    for split in ("train", "val", "test"):
        assert torch.equal(getattr(prepared, split).inputs, getattr(direct, split).inputs)


def test_a_whole_book_is_prepared(tmp_path: Path) -> None:
    book = "".join(f"{i} of the longest of lines\n" for i in range(45_000))
    assert len(book) > 1 << 20
    for split in ("train", "val", "test"):
        (tmp_path / "s" / split).mkdir(parents=True)
        write(tmp_path / f"s/{split}/book.txt", f"{split}\n" + (book if split == "train" else LINES))
    prepare(tmp_path / "s", tmp_path / "set", PrepareConfig(target="none", near_duplicates="keep"))
    data = load(tmp_path / "set", max_length=1000)
    assert sum(map(len, as_said(data, "train").values())) == 1 + 6 * 45_000


def test_a_tokenizer_that_begins_and_ends_texts_does_so_once(books: Path, tmp_path: Path) -> None:
    from tokenizers import processors

    tokenizer = parse_tokenizer(load(books, max_length=4096).spec.tokenizer, "spec")
    tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.save(str(tmp_path / "own.json"))
    data = load(books, tokenizer=str(tmp_path / "own.json"), max_length=16)
    for tokens in as_said(data, "train").values():
        assert [tokens[0], tokens[-1]] == [number for _, number in ends]
        assert not set(tokens[1:-1]) & {number for _, number in ends}


def test_windows_are_resumed_exactly_on_other_ranks(books: Path) -> None:
    data = load(books, max_length=16)
    whole = epoch(data, 64)
    assert whole.keys() == set(data.train.ids.tolist())
    state = {"epoch": 0, "consumed": 20, "n": len(data.train), "seed": 3, "global_batch": 10}
    rest: dict = {}
    for rank in range(3):
        rest |= epoch(data, 7, state=state, rank=rank, world_size=3)
    assert rest.keys() == set(list(whole)[20:])
    assert same(whole, rest)
    assert load(books, max_length=16).spec.fingerprint == data.spec.fingerprint


def test_texts_with_labels_are_cut_unless_windows_are_asked_for(tmp_path: Path) -> None:
    folder = written_books(tmp_path)
    cut, whole = load(folder, max_length=16), load(folder, max_length=4096)
    assert torch.equal(cut.train.inputs, whole.train.inputs[:, :16])
    lost = int((whole.train.inputs[:, 16:] != 0).sum())
    share = f"{100 * lost / int((whole.train.inputs != 0).sum()):.3g} %"
    long = int((whole.train.inputs[:, 16] != 0).sum())
    assert cut.note == (
        f"texts: {long} of {len(cut.train)} training texts have more than 16 tokens and are cut there, which loses "
        f"{share} of all tokens; data.text.max_length keeps more of them, data.text.overlong=windows all"
    )
    assert whole.note == ""
    windows = load(folder, max_length=16, overlong="windows")
    labels = dict(zip(whole.train.ids.tolist(), whole.train.labels.tolist(), strict=True))
    assert len(windows.train) > len(cut.train)
    for id, label in zip(windows.train.ids.tolist(), windows.train.labels.tolist(), strict=True):
        assert label == labels[id % ANOTHER]


def test_words_with_tags_are_not_cut_up(tmp_path: Path) -> None:
    lines = [f"{word} {'N' if word[0] == 'n' else 'O'}" for word in ("nine", "cats", "and", "ninety", "dogs")]
    write(tmp_path / "s.conll", "\n\n".join("\n".join([*lines, f"x{i} O"]) for i in range(40)) + "\n")
    prepare(tmp_path / "s.conll", tmp_path / "set", PrepareConfig(near_duplicates="keep"))
    assert load(tmp_path / "set", max_length=4).note.endswith("data.text.max_length keeps more of them")
    with pytest.raises(UsageError, match=r"data\.text\.overlong: got windows.*tags.*allowed: auto, cut; fix:"):
        load(tmp_path / "set", overlong="windows")


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "latin.txt").write_bytes(b"ab\xffc")
    (tmp_path / "marked.txt").write_bytes(b"\xef\xbb\xbfab\xffc")
    (tmp_path / "cut.txt").write_bytes("abü".encode()[:-1])
    write(tmp_path / "odd" / "test.txt", "abc")
    for name, reason in (
        ("absent.txt", "no such file or folder"),
        ("latin.txt", "byte 2 is 0xff, which is no UTF-8"),
        ("marked.txt", "byte 5 is 0xff, which is no UTF-8"),
        ("cut.txt", "byte 2 is 0xc3, which is no UTF-8"),
        ("odd", "files named test, and none of the training split"),
    ):
        with pytest.raises(UsageError, match=reason):
            load(tmp_path / name, "text")
    with pytest.raises(UsageError, match="its val split has 1 tokens; allowed: at least 2"):
        load(write(tmp_path / "short.txt", "abcdefgh"), "text", tokenizer="char")
    with pytest.raises(UsageError, match=r"data\.root: missing"):
        build_data(DataConfig(source="text"), 0)
