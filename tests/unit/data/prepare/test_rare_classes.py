"""Classes of a few samples: refused where they cannot be split, or left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.unit.data.prepare.pictures import image_folder

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare.run import prepare
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Thirty rows each of a and b, two of c and one of d."""
    labels = ["a", "b"] * 30
    labels[7:7], labels[20:20], labels[40:40] = ["c"], ["d"], ["c"]
    path = tmp_path / "rows.csv"
    path.write_text("x,label\n" + "".join(f"{i},{label}\n" for i, label in enumerate(labels)))
    return path


def listed(out: Path, name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


def test_one_sample_cannot_be_on_both_sides(table: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'d' has 1; allowed: at least 2 .*data\.prepare\.min_per_class=3"):
        prepare(table, tmp_path / "out", PrepareConfig())
    assert not (tmp_path / "out").exists()


def test_rare_classes_are_left_out_and_listed(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    document = prepare(table, out, PrepareConfig(min_per_class=3))
    assert document["labels"] == ["a", "b"]
    assert document["dropped"] == {"of a rare class": 3}
    reasons = sorted(one["reason"] for one in listed(out, "dropped.jsonl"))
    assert reasons == [f"of a rare class: {name}" for name in "ccd"]
    assert len(listed(out, "items.jsonl")) == 60
    for split in ("train", "val", "test"):
        features, labels = (np.load(out / f"{split}-{name}.npy") for name in ("features", "labels"))
        rows = [one for one in listed(out, "items.jsonl") if one["split"] == split]
        assert [["a", "b"][label] for label in labels] == [row["label"] for row in rows]
        assert len(features) == len(labels)


def test_a_class_as_large_as_asked_for_stays(table: Path, tmp_path: Path) -> None:
    config = PrepareConfig(min_per_class=2, val_fraction=0)
    assert prepare(table, tmp_path / "out", config)["labels"] == ["a", "b", "c"]


def test_what_is_counted_is_left_after_cleaning(table: Path, tmp_path: Path) -> None:
    """Three rows of e, two of which are the same."""
    table.write_text(table.read_text() + "100,e\n100,e\n101,e\n")
    document = prepare(table, tmp_path / "out", PrepareConfig(min_per_class=3))
    assert document["labels"] == ["a", "b"]
    assert document["dropped"] == {"an exact copy": 1, "of a rare class": 5}


def test_not_more_goes_than_may(table: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"max_dropped: 3 of 63 items .*of a rare class"):
        prepare(table, tmp_path / "out", PrepareConfig(min_per_class=3, max_dropped=0.01))
    with pytest.raises(UsageError, match=r"one class only|max_dropped|at least two"):
        prepare(table, tmp_path / "out", PrepareConfig(min_per_class=31, max_dropped=1))


def test_the_key_says_nothing_where_it_is_not_given(table: Path, tmp_path: Path) -> None:
    """So that sets made before there was such a key are known again."""
    table.write_text("x,label\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(20)))
    assert "min_per_class" not in prepare(table, tmp_path / "one", PrepareConfig())["plan"]["settings"]
    assert prepare(table, tmp_path / "two", PrepareConfig(min_per_class=2))["plan"]["settings"]["min_per_class"] == 2


def test_pictures(tmp_path: Path) -> None:
    source = image_folder(tmp_path / "source", each=8)
    image_folder(source, ["emu"], each=1, seed=1)
    out = tmp_path / "out"
    document = prepare(source, out, PrepareConfig(min_per_class=3))
    assert document["labels"] == ["cat", "dog"]
    assert len(listed(out, "items.jsonl")) == 16
    assert "emu" in listed(out, "dropped.jsonl")[0]["reason"]
