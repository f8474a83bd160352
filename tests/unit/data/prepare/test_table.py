"""Tables become float32 arrays, and the document says what each column was."""

from __future__ import annotations

import csv
import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare import row_set
from scaledl.data.prepare.delimited import read_delimited
from scaledl.data.prepare.items import Item
from scaledl.data.prepare.run import prepare
from scaledl.data.prepare.split import split_rows
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

CONFIG = PrepareConfig()


def write_csv(path: Path, rows: Sequence[Sequence[Any]], delimiter: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def flowers(count: int = 40) -> list[list[Any]]:
    """Two numbers, a colour, and two classes."""
    colours = ("blue", "red", "white")
    rows = [[i * 0.5, (i * 7) % 11, colours[i % 3], "setosa" if i % 2 else "virginica"] for i in range(count)]
    return [["length", "width", "colour", "class"], *rows]


def loaded(out: Path, part: str, split: str = "train") -> np.ndarray:
    return np.load(out / f"{split}-{part}.npy", mmap_mode="r")


def every(out: Path, part: str) -> np.ndarray:
    return np.concatenate([loaded(out, part, split) for split in ("train", "val", "test")])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def bytes_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def columns_of(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {column["name"]: column for column in document["columns"]}


def test_a_table_becomes_arrays(tmp_path: Path) -> None:
    rows = flowers()
    document = prepare(write_csv(tmp_path / "t.csv", rows), tmp_path / "out", CONFIG)
    assert document["modality"] == "table"
    assert document["in_shape"] == [3]
    assert document["labels"] == ["setosa", "virginica"]
    assert {split: document["splits"][split]["rows"] for split in ("train", "val", "test")} == {
        "train": 28,
        "val": 4,
        "test": 8,
    }
    features = every(tmp_path / "out", "features")
    assert features.dtype == np.float32
    for item, row in zip(lines(tmp_path / "out" / "items.jsonl"), features, strict=True):
        number = int(item["key"].partition(":")[2])
        length, width, colour, label = rows[number - 1]
        assert [length, width, ("blue", "red", "white").index(colour) + 1] == row.tolist()
        assert label == item["label"]
    assert every(tmp_path / "out", "ids").tolist() == list(range(40))
    assert every(tmp_path / "out", "labels").dtype == np.int64


def test_the_document_describes_the_training_split(tmp_path: Path) -> None:
    document = prepare(write_csv(tmp_path / "t.csv", flowers()), tmp_path / "out", CONFIG)
    length, colour = columns_of(document)["length"], columns_of(document)["colour"]
    values = loaded(tmp_path / "out", "features")[:, 0].astype(np.float64)
    assert length["kind"] == "numeric"
    assert [length[key] for key in ("mean", "std", "min", "max")] == pytest.approx(
        [values.mean(), values.std(), values.min(), values.max()]
    )
    assert colour == {"name": "colour", "kind": "category", "categories": ["blue", "red", "white"], "missing": 0}
    assert document["profile"]["classes"]["test"] == [4, 4]


def test_the_same_input_gives_the_same_bytes_and_a_done_one_is_left_alone(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "t.csv", flowers())
    before = source.read_bytes()
    first = prepare(source, tmp_path / "a", CONFIG)
    second = prepare(source, tmp_path / "b", CONFIG)
    assert first == second
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}
    assert prepare(source, tmp_path / "a", CONFIG) == first
    assert times == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}
    assert source.read_bytes() == before


@pytest.mark.parametrize(("missing", "expected"), [("mean", None), ("median", None), ("zero", 0.0)])
def test_missing_numbers_are_filled_from_the_training_split(
    tmp_path: Path, missing: str, expected: float | None
) -> None:
    rows = flowers()
    for row in (5, 11, 20, 33):
        rows[row][1] = ("", "NA", "?", "NaN")[row % 4]
    config = PrepareConfig(missing=missing)  # type: ignore[arg-type]
    document = prepare(write_csv(tmp_path / "t.csv", rows), tmp_path / "out", config)
    gaps = {f"t.csv:{row + 1}" for row in (5, 11, 20, 33)}
    items = lines(tmp_path / "out" / "items.jsonl")
    width = every(tmp_path / "out", "features")[:, 1]
    known = [
        float(value)
        for item, value in zip(items, width, strict=True)
        if item["key"] not in gaps and item["split"] == "train"
    ]
    fill = {"mean": np.mean(known), "median": np.median(known), "zero": 0.0}[missing]
    assert [value for item, value in zip(items, width, strict=True) if item["key"] in gaps] == pytest.approx([fill] * 4)
    assert columns_of(document)["width"]["missing"] == 4
    assert columns_of(document)["width"]["fill"] == pytest.approx(fill)
    becomes = "0" if missing == "zero" else f"the training split's {missing}, {fill:.4g}"
    assert document["notes"] == [f"column 'width': 4 missing values become {becomes}"]


def test_rows_with_gaps_are_dropped_where_the_config_says_so(tmp_path: Path) -> None:
    rows = flowers()
    rows[4][0] = ""
    document = prepare(write_csv(tmp_path / "t.csv", rows), tmp_path / "out", PrepareConfig(missing="drop"))
    assert document["dropped"] == {"a missing value": 1}
    assert lines(tmp_path / "out" / "dropped.jsonl") == [
        {"key": "t.csv:5", "reason": "a missing value: column 'length'"}
    ]


def test_a_missing_category_is_noted(tmp_path: Path) -> None:
    rows = flowers()
    rows[4][2] = ""
    document = prepare(write_csv(tmp_path / "t.csv", rows), tmp_path / "out", CONFIG)
    assert document["notes"] == ["column 'colour': 1 missing value is of no category"]


def test_a_category_that_training_never_saw_is_unknown(tmp_path: Path) -> None:
    write_csv(tmp_path / "s" / "train.csv", flowers())
    test = [["length", "width", "colour", "class"], [99.5, 1, "green", "setosa"], [98.5, 2, "red", "virginica"]]
    write_csv(tmp_path / "s" / "test.csv", [[*row[1:], row[0]] for row in test])  # columns go by their names
    document = prepare(tmp_path / "s", tmp_path / "out", CONFIG)
    assert loaded(tmp_path / "out", "features", "test").tolist() == [[99.5, 1, 0], [98.5, 2, 2]]
    assert document["splits"]["test"]["rows"] == 2


def test_columns_that_say_nothing_are_left_out_and_noted(tmp_path: Path) -> None:
    rows = [["id", "ticket", "unit", *row] if i == 0 else [i, f"T{i}", "cm", *row] for i, row in enumerate(flowers())]
    document = prepare(write_csv(tmp_path / "t.csv", rows), tmp_path / "out", CONFIG)
    assert [*columns_of(document)] == ["length", "width", "colour"]
    assert document["notes"] == [
        "column 'id' is left out: it numbers the rows",
        "column 'ticket' is left out: all its texts are different, as those of an id are",
        "column 'unit' is left out: constant",
    ]


def test_equal_rows_stay_once_and_in_the_test_split(tmp_path: Path) -> None:
    rows = flowers()
    write_csv(tmp_path / "s" / "train.csv", [*rows, rows[3]])
    write_csv(tmp_path / "s" / "test.csv", [rows[0], ["0.50", "7.0", "red", "setosa"], rows[4]])  # rows[2], otherwise
    prepare(tmp_path / "s", tmp_path / "out", CONFIG)
    assert lines(tmp_path / "out" / "dropped.jsonl") == [
        {"key": "train.csv:3", "reason": "an exact copy", "of": "test.csv:2"},
        {"key": "train.csv:42", "reason": "an exact copy", "of": "train.csv:4"},
        {"key": "train.csv:5", "reason": "an exact copy", "of": "test.csv:3"},
    ]


def test_equal_rows_under_several_labels_all_go(tmp_path: Path) -> None:
    rows = flowers()
    rows.append([*rows[1][:3], "setosa"])
    prepare(write_csv(tmp_path / "t.csv", rows), tmp_path / "out", CONFIG)
    reason = "the same row has several labels: setosa, virginica"
    assert [(one["key"], one["reason"]) for one in lines(tmp_path / "out" / "dropped.jsonl")] == [
        ("t.csv:2", reason),
        ("t.csv:42", reason),
    ]


def test_rows_without_a_label_go(tmp_path: Path) -> None:
    rows = flowers()
    rows[1][3], rows[2][3] = "", "NaN"
    document = prepare(write_csv(tmp_path / "t.csv", rows), tmp_path / "out", CONFIG)
    assert document["dropped"] == {"no label": 2}


def test_whole_numbers_are_labels_in_the_order_of_their_values(tmp_path: Path) -> None:
    rows = [["a", "y"], *([i, ("10", "9.0", "9")[i % 3]] for i in range(30))]
    document = prepare(write_csv(tmp_path / "t.csv", rows), tmp_path / "out", CONFIG)
    assert document["labels"] == ["9", "10"]


def test_numbers_are_categories_where_the_config_says_so(tmp_path: Path) -> None:
    config = PrepareConfig(categorical=["width"], exclude=["colour"])
    document = prepare(write_csv(tmp_path / "t.csv", flowers()), tmp_path / "out", config)
    assert columns_of(document)["width"]["categories"] == sorted(str(n) for n in range(11))
    assert "colour" not in columns_of(document)


def test_groups_stay_together(tmp_path: Path) -> None:
    rows = flowers(60)
    grouped = [["patient", *rows[0]], *([f"p{i // 4}", *row] for i, row in enumerate(rows[1:]))]
    document = prepare(write_csv(tmp_path / "t.csv", grouped), tmp_path / "out", PrepareConfig(group="patient"))
    splits: dict[int, set[str]] = {}
    for item in lines(tmp_path / "out" / "items.jsonl"):
        splits.setdefault((int(item["key"].partition(":")[2]) - 2) // 4, set()).add(item["split"])
    assert len(splits) == 15
    assert all(len(found) == 1 for found in splits.values())
    assert document["splits"]["test"]["rows"] == 12
    assert document["profile"]["classes"]["test"] == [6, 6]
    assert "patient" not in columns_of(document)


@pytest.mark.parametrize("dates", [False, True])
def test_the_last_part_is_test_and_the_part_before_it_val(tmp_path: Path, dates: bool) -> None:
    rows = flowers()
    times = [(i * 13) % 40 for i in range(40)]
    shown = [f"2024-02-{1 + time // 2:02}T{time % 2 * 12:02}:00" if dates else time for time in times]
    timed = [["when", *rows[0]], *([time, *row] for time, row in zip(shown, rows[1:], strict=True))]
    prepare(write_csv(tmp_path / "t.csv", timed), tmp_path / "out", PrepareConfig(time="when"))
    splits = {
        times[int(item["key"].partition(":")[2]) - 2]: item["split"] for item in lines(tmp_path / "out" / "items.jsonl")
    }
    assert [splits[time] for time in range(40)] == ["train"] * 29 + ["val"] * 3 + ["test"] * 8


def test_a_column_says_the_split(tmp_path: Path) -> None:
    rows = flowers()
    said = [
        ["part", *rows[0]],
        *(["Validation" if i < 5 else "test" if i < 9 else "train", *row] for i, row in enumerate(rows[1:])),
    ]
    document = prepare(write_csv(tmp_path / "t.csv", said), tmp_path / "out", PrepareConfig(split="part"))
    assert [document["splits"][split]["rows"] for split in ("train", "val", "test")] == [31, 5, 4]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_delimiter_and_byte_order_mark_are_found(tmp_path: Path, delimiter: str, mark: str) -> None:
    path = write_csv(tmp_path / "t.csv", flowers(), delimiter)
    path.write_text(mark + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert read_delimited(path)[0] == ["length", "width", "colour", "class"]


def test_a_parquet_file_gives_what_the_csv_file_gives(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = flowers()
    rows[7][1] = None
    columns = {name: [row[place] for row in rows[1:]] for place, name in enumerate(rows[0])}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    first = prepare(tmp_path / "t.parquet", tmp_path / "a", CONFIG)
    second = prepare(write_csv(tmp_path / "t.csv", rows), tmp_path / "b", CONFIG)
    assert first["columns"] == second["columns"]
    assert first["fingerprint"] == second["fingerprint"]


def test_an_interrupted_preparation_leaves_no_document_and_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_csv(tmp_path / "t.csv", flowers())
    whole = prepare(source, tmp_path / "whole", CONFIG)

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(row_set, "write_layout", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, tmp_path / "out", CONFIG)
    assert (tmp_path / "out" / "train-features.npy").exists()
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert prepare(source, tmp_path / "out", CONFIG) == whole
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")


def test_a_failed_preparation_keeps_the_older_data_set(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "t.csv", flowers())
    prepare(source, tmp_path / "out", CONFIG)
    before = bytes_of(tmp_path / "out")
    source.write_text("a,b\n1,2\n3\n")
    with pytest.raises(UsageError, match="row 3"):
        prepare(source, tmp_path / "out", CONFIG, force=True)
    assert bytes_of(tmp_path / "out") == before


def test_another_modality_replaces_all_arrays(tmp_path: Path) -> None:
    prepare(write_csv(tmp_path / "t.csv", flowers()), tmp_path / "out", CONFIG)
    texts = [["text", "label"], *([f"text {i}", "ab"[i % 2]] for i in range(30))]
    prepare(write_csv(tmp_path / "u.csv", texts), tmp_path / "out", PrepareConfig(text="text"), force=True)
    assert not list((tmp_path / "out").glob("*-features.npy"))
    assert not (tmp_path / "out" / ".work").exists()


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00\ufeff"), max_size=12)
NAMES = st.lists(st.text(string.ascii_letters, min_size=1, max_size=6), min_size=2, max_size=5, unique=True)


@settings(deadline=None)
@given(st.data(), st.sampled_from([",", ";", "\t", "|"]))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, delimiter: str) -> None:
    names = data.draw(NAMES)
    # "inf" and "nan" are numbers, and a header of numbers only is refused.
    names = [f"c{name}" for name in names]
    rows = data.draw(st.lists(st.lists(CELLS, min_size=len(names), max_size=len(names)), max_size=8))
    path = write_csv(tmp_path_factory.mktemp("csv") / "t.csv", [names, *rows], delimiter)
    columns, found = read_delimited(path, delimiter)
    assert columns == names
    assert [cells for _, cells in found] == rows
    assert [row for row, _ in found] == list(range(2, len(rows) + 2))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), min_size=20, max_size=60), st.integers(0, 99))
def test_groups_are_never_cut_and_every_class_is_trained_on(pairs: list[tuple[int, int]], seed: int) -> None:
    labels = np.unique(np.array([label for _, label in pairs]), return_inverse=True)[1]
    items = [Item(str(i), str(label), "", (), group=f"g{group}") for i, (group, label) in enumerate(pairs)]
    try:
        splits = split_rows(labels, items, np.arange(len(items)), ("0", "1", "2"), PrepareConfig(seed=seed))
    except UsageError as error:
        assert "groups are too few" in str(error)  # noqa: PT017
        return
    assert all(len({s for s, (g, _) in zip(splits, pairs, strict=True) if g == group}) < 2 for group in range(10))
    assert {*labels[splits == "train"].tolist()} == {*labels.tolist()}
    assert {*splits.tolist()} == {"train", "val", "test"}


@settings(deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=20, max_size=40, unique=True),
    st.sampled_from(["{!r}", "{:e}", " {!r} "]),
)
def test_numbers_survive(tmp_path_factory: pytest.TempPathFactory, values: list[float], form: str) -> None:
    folder = tmp_path_factory.mktemp("numbers")
    digits = "{:.9e}" if form == "{:e}" else form
    rows = [["x", "class"], *([digits.format(value), "ab"[i % 2]] for i, value in enumerate(values))]
    prepare(write_csv(folder / "t.csv", rows), folder / "out", CONFIG)
    assert sorted(every(folder / "out", "features")[:, 0].tolist()) == sorted(np.float32(values).tolist())
