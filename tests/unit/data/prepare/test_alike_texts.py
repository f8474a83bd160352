"""Which texts say nearly the same."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare.alike_texts import PIECE, near_texts
from scaledl.data.prepare.clean import clusters
from scaledl.data.prepare.run import prepare
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

WORDS = ["".join(random.Random(i).choices("abcdefghijklmnopqrstuvwxyz", k=3 + i % 7)) for i in range(500)]


def text(seed: int, words: int = 80) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def similarity(one: str, other: str) -> float:
    """By sets of plain substrings, for texts of small letters and spaces."""
    a, b = (
        {plain[i : i + PIECE] for i in range(max(1, len(plain) - PIECE + 1))}
        for plain in (one.replace(" ", ""), other.replace(" ", ""))
    )
    return len(a & b) / len(a | b)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hello, world!", "hello world"),
        ("Caf\u00e9 cr\u00e8me", "cafe\u0301  CREME"),
        (text(0), text(0).upper() + "  !"),
        ("ab", "AB"),
        ("!?", "!?"),
    ],
)
def test_case_signs_and_spaces_make_no_difference(one: str, other: str) -> None:
    assert near_texts([one, text(1), other], 1.0) == [(0, 2)]


def test_different_short_texts_are_different() -> None:
    assert near_texts(["good", "bad", "goods", "!", "?", ""], 0.8) == []


@pytest.mark.parametrize(("changed", "alike"), [(1, True), (2, True), (40, False)])
def test_a_few_changed_words(changed: int, alike: bool) -> None:
    words = text(0).split()
    for i in range(changed):
        words[i * 2] = "different"
    other = " ".join(words)
    assert (similarity(text(0), other) >= 0.8) == alike
    assert near_texts([text(0), other], 0.8) == ([(0, 1)] if alike else [])


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 1000), st.integers(0, 20), st.floats(0.5, 1.0))
def test_the_similarity_decides(seed: int, changed: int, wanted: float) -> None:
    rng = random.Random(seed)
    words = text(seed).split()
    for place in rng.sample(range(len(words)), changed):
        words[place] = rng.choice(WORDS)
    other = " ".join(words)
    found = near_texts([text(seed), other], wanted)
    truth = similarity(text(seed), other)
    if found:
        assert truth >= wanted
    elif truth >= 0.9:  # below, one pair in five hundred may not meet in any band
        assert truth < wanted


def test_every_text_of_a_group_is_paired_with_its_first_and_long_ones_are_cut_into_blocks() -> None:
    long = " ".join(text(seed) for seed in range(100, 200))
    assert len(long) > 3 * (1 << 14)
    assert near_texts([long, "x", long + " more", "X", "x."], 0.8) == [(0, 2), (1, 3), (1, 4)]


def test_none() -> None:
    assert near_texts(["one text"], 0.8) == []


LETTER = text(7, 120)


def letter(number: int) -> str:
    """One of thousands that are nearly the same."""
    return f"Dear {WORDS[number % 500]} {WORDS[number * 7 % 500]}, {LETTER} {number}"


def test_thousands_of_form_letters_are_compared_with_few(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    real = np.intersect1d

    def counting(*args: Any, **options: Any) -> Any:
        compared.append(1)
        return real(*args, **options)

    monkeypatch.setattr(np, "intersect1d", counting)
    letters = [letter(number) for number in range(5000)]
    pairs = near_texts(letters, 0.8)
    assert set(clusters(5000, pairs).tolist()) == {0}
    assert len(compared) <= 5000 * 12
    assert len(pairs) <= 5000 * 12


def test_of_form_letters_all_that_are_near_to_another_split_are_known() -> None:
    splits = ["test" if number % 5 == 1 else "train" for number in range(300)]
    pairs = near_texts([letter(number) for number in range(300)], 0.8, splits)
    across = {one if splits[one] == "train" else other for one, other in pairs if splits[one] != splits[other]}
    assert across == {number for number in range(300) if splits[number] == "train"}
    assert set(splits) == {"train", "test"}


def test_equal_texts_are_known_across_splits() -> None:
    assert near_texts(["one", "One!", "one.", "ONE"], 0.8, ["train", "train", "test", "test"]) == [
        (0, 1), (0, 2), (0, 3), (1, 2), (2, 3),
    ]  # fmt: skip


def test_what_is_equal_is_near_to_the_same() -> None:
    other = text(0).replace(text(0).split()[40], "zz", 1)
    assert near_texts([text(0), text(0).upper(), f"{text(0)}!", other], 0.8) == [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)]


def reworded(seed: int) -> str:
    return text(seed).replace(" ", "  ", 1).upper() + " again"


def write(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return path


def listed(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_texts_that_say_nearly_the_same_stay_in_one_split(tmp_path: Path) -> None:
    rows = [(make(seed), "ab"[seed % 2]) for seed in range(60) for make in (text, reworded)]
    document = prepare(write(tmp_path / "t.jsonl", rows), tmp_path / "out", PrepareConfig(text="text"))
    assert document["dropped"] == {}
    splits = {item["key"]: item["split"] for item in listed(tmp_path / "out", "items.jsonl")}
    pairs = [(splits[f"t.jsonl:{2 * i + 1}"], splits[f"t.jsonl:{2 * i + 2}"]) for i in range(60)]
    assert all(one == other for one, other in pairs)
    assert {one for one, _ in pairs} == {"train", "val", "test"}


def test_across_given_splits_they_go_from_train(tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    write(tmp_path / "sets/train.jsonl", [(text(seed), "ab"[seed % 2]) for seed in range(60)])
    write(tmp_path / "sets/test.jsonl", [(reworded(seed), "ab"[seed % 2]) for seed in (3, 4, *range(90, 100))])
    document = prepare(tmp_path / "sets", tmp_path / "out", PrepareConfig(text="text"))
    assert document["dropped"] == {"looks the same as a text of the test split": 2}
    assert sorted(one["key"] for one in listed(tmp_path / "out", "dropped.jsonl")) == ["train.jsonl:4", "train.jsonl:5"]
    kept = prepare(tmp_path / "sets", tmp_path / "kept", PrepareConfig(text="text", near_duplicates="keep"))
    assert kept["dropped"] == {}
    within = prepare(tmp_path / "sets", tmp_path / "one", PrepareConfig(text="text", near_duplicates="drop"))
    assert within["dropped"] == {"looks the same as another text": 2}


@pytest.mark.parametrize("how", ["by the source", "by time"])
@pytest.mark.parametrize("near", [False, True])
def test_every_spelling_of_a_text_of_another_split_goes_from_train(tmp_path: Path, how: str, near: bool) -> None:
    said = text(0)
    spellings = [said, said.upper(), f"{said}!", f"{said}."]
    texts = [*spellings[:3], *map(text, range(1, 41)), reworded(0) if near else spellings[3]]
    rows = [{"text": one, "label": "ab"[i % 2], "day": i} for i, one in enumerate(texts)]
    parts = [{"part": "test" if i > 36 else "val" if i > 33 else "train"} for i in range(len(rows))]
    rows = [row | part for row, part in zip(rows, parts, strict=True)] if how == "by the source" else rows
    settings = {"split": "part", "group": None} if how == "by the source" else {"time": "day"}
    config = PrepareConfig.model_validate({"text": "text", **settings})
    document = prepare(write_rows(tmp_path / "t.jsonl", rows), tmp_path / "out", config)
    assert document["dropped"] == {"looks the same as a text of the test split": 3}
    lost = {one["key"] for one in listed(tmp_path / "out", "dropped.jsonl")}
    assert lost == {"t.jsonl:1", "t.jsonl:2", "t.jsonl:3"}


def test_of_equal_texts_one_with_a_label_stays_alone(tmp_path: Path) -> None:
    texts = [text(0), text(0).upper(), f"{text(0)}!", *map(text, range(1, 41))]
    rows = [{"text": one, "label": None if i == 0 else "ab"[i % 2]} for i, one in enumerate(texts)]
    config = PrepareConfig(text="text", near_duplicates="drop", unlabeled="keep")
    prepare(write_rows(tmp_path / "t.jsonl", rows), tmp_path / "out", config)
    lost = {one["key"]: one["of"] for one in listed(tmp_path / "out", "dropped.jsonl")}
    assert lost == {"t.jsonl:1": "t.jsonl:2", "t.jsonl:3": "t.jsonl:2"}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_groups_with_texts_that_are_alike_stay_together(tmp_path: Path) -> None:
    rows = [
        {"text": make(seed), "label": "ab"[seed % 2], "who": f"{make.__name__}-{seed}"}
        for make in (text, reworded)
        for seed in range(60)
    ]
    config = PrepareConfig(text="text", group="who", test_fraction=0.3)
    prepare(write_rows(tmp_path / "t.jsonl", rows), tmp_path / "out", config)
    splits = {item["key"]: item["split"] for item in listed(tmp_path / "out", "items.jsonl")}
    assert len(splits) == 120
    for i in range(60):
        assert splits[f"t.jsonl:{i + 1}"] == splits[f"t.jsonl:{i + 61}"]
    assert set(splits.values()) == {"train", "val", "test"}


def test_behind_a_cut_in_time_what_was_said_before_goes_from_train(tmp_path: Path) -> None:
    said = [text(seed) for seed in range(98)] + [reworded(5), reworded(96)]
    rows = [{"text": one, "label": "ab"[i % 2], "day": i} for i, one in enumerate(said)]
    config = PrepareConfig(text="text", time="day")
    document = prepare(write_rows(tmp_path / "t.jsonl", rows), tmp_path / "out", config)
    assert document["dropped"] == {"looks the same as a text of the test split": 1}
    [lost] = listed(tmp_path / "out", "dropped.jsonl")
    assert lost["key"] == "t.jsonl:6"
    splits = [item["split"] for item in listed(tmp_path / "out", "items.jsonl")]
    assert splits.count("test") == 20


def test_where_every_text_has_two_labels_the_message_says_so(tmp_path: Path) -> None:
    rows = [{"text": one, "label": label} for one in ("one text", "another") for label in "ab"]
    with pytest.raises(UsageError, match="max_dropped: 4 of 4 items would be dropped"):
        prepare(write_rows(tmp_path / "t.jsonl", rows), tmp_path / "out", PrepareConfig(text="text"))
