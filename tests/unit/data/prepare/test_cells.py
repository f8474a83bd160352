"""A table is read in blocks and kept by column: what comes of it is the same, and its memory follows its columns."""

from __future__ import annotations

import csv
import io
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare import cells
from scaledl.data.prepare.cells import Cells, Mixture, Texts, blocks_of
from scaledl.data.prepare.run import prepare
from scaledl.data.prepare.survey import survey
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

GAPS = ("", "NA", " ? ", "n/a", "1.5")


def make_csv(path: Path, rows: Sequence[Sequence[Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    return path


def varied(count: int = 60) -> list[list[Any]]:
    """Numbers with gaps, texts with line breaks and quotes, texts that come late, copies, and rows without a label."""
    words = ("first\nsecond", 'a "quoted" word', "", " plain ", "null")
    rows = []
    for i in range(count):
        label = "" if i % 11 == 0 else ("up", "down")[i % 2]
        late = "" if i < 40 else f"late {i % 3}"
        rows.append([i % 17 - 3.5, GAPS[i % 5], words[i * 3 % 5], late, (7, "7.0", "8")[i % 3], label])
    return [["x", "gaps", "note", "late", "code", "label"], *rows, *rows[3:9]]


@pytest.fixture
def tiny_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four rows each."""
    monkeypatch.setattr(cells, "_BLOCK_CELLS", 4)
    monkeypatch.setattr(cells, "_LEAST_ROWS", 4)


def found_in(source: Path, out: Path, config: PrepareConfig) -> dict[str, bytes]:
    prepare(source, out, config)
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.parametrize("settings", [{}, {"categorical": ["x", "code"]}, {"missing": "drop"}, {"exclude": ["late"]}])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_blocks_make_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], suffix: str
) -> None:
    config = PrepareConfig(max_dropped=1.0, **settings)
    rows = varied()
    source = make_csv(tmp_path / "t.csv", rows)
    if suffix == "parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        source = tmp_path / "t.parquet"
        texts = {name: [str(row[place]) for row in rows[1:]] for place, name in enumerate(rows[0])}
        parquet.write_table(pyarrow.table({**texts, "x": [row[0] for row in rows[1:]]}), source, row_group_size=7)
    whole, surveyed = found_in(source, tmp_path / "whole", config), survey(source, config)
    for size in (1, 3, 16):
        monkeypatch.setattr(cells, "_BLOCK_CELLS", size)
        monkeypatch.setattr(cells, "_LEAST_ROWS", size)
        assert found_in(source, tmp_path / f"blocks of {size}", config) == whole
        assert survey(source, config) == surveyed


@pytest.mark.usefixtures("tiny_blocks")
def test_rows_keep_their_numbers_behind_line_breaks_and_empty_lines(tmp_path: Path) -> None:
    rows = [["x", "note", "label"], *([i % 5, f"a\nb{i % 2}", "uv"[i % 2]] for i in range(21))]
    source = make_csv(tmp_path / "t.csv", rows)
    source.write_text(source.read_text() + "\n\nodd,z,u\n", newline="")
    with pytest.raises(UsageError, match=r"mixes numbers and texts: got 'odd' at t\.csv:25, and '0' at t\.csv:2;"):
        prepare(source, tmp_path / "out", PrepareConfig())


@pytest.mark.usefixtures("tiny_blocks")
@pytest.mark.parametrize("where", ["one file", "another file", "parquet"])
def test_a_mixed_column_shows_the_number_as_it_is_written(tmp_path: Path, where: str) -> None:
    """Also where rows before it have no label, and its block was read as numbers long ago."""
    rows = [["x", "y", "label"], ["9.750", 1, ""], *([f" {i}.50", i % 3, "uv"[i % 2]] for i in range(20))]
    last = ["bad ", 2, "u"]
    if where == "another file":
        make_csv(tmp_path / "s" / "train.csv", rows)
        source = make_csv(tmp_path / "s" / "test.csv", [["y", "label", "x"], [2, "u", "bad "]]).parent
        expected = "got 'bad' at test.csv:2, and '0.50' at train.csv:3"
    elif where == "parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        columns = {name: [str(row[place]) for row in [*rows[1:], last]] for place, name in enumerate(rows[0])}
        source = tmp_path / "t.parquet"
        parquet.write_table(pyarrow.table(columns), source)
        expected = "got 'bad' at t.parquet:22, and '0.50' at t.parquet:2"
    else:
        source = make_csv(tmp_path / "t.csv", [*rows, last])
        expected = "got 'bad' at t.csv:23, and '0.50' at t.csv:3"
    with pytest.raises(UsageError, match="mixes numbers and texts") as caught:
        prepare(source, tmp_path / "out", PrepareConfig())
    assert expected in str(caught.value)


@pytest.mark.usefixtures("tiny_blocks")
def test_a_text_in_a_row_without_a_label_mixes_nothing(tmp_path: Path) -> None:
    rows = [["x", "y", "label"], *([i * 0.5, i % 3, "uv"[i % 2]] for i in range(20)), ["bad", 1, ""]]
    document = prepare(make_csv(tmp_path / "t.csv", rows), tmp_path / "out", PrepareConfig())
    assert [(one["name"], one["kind"]) for one in document["columns"]] == [("x", "numeric"), ("y", "numeric")]


def test_a_broken_row_is_told_before_a_column_that_is_not_there(tmp_path: Path) -> None:
    source = make_csv(tmp_path / "t.csv", [["a", "b"], [1, 2], [3]])
    with pytest.raises(UsageError, match="row 3 has 1 fields"):
        prepare(source, tmp_path / "out", PrepareConfig())
    with pytest.raises(UsageError, match=r"data\.prepare\.label: missing"):
        prepare(make_csv(tmp_path / "u.csv", [["a", "b"], [1, 2]]), tmp_path / "out", PrepareConfig())


@pytest.mark.parametrize(
    ("values", "strange"),
    [(["1", "+nan", "2"], []), (["1", "1_000"], ["1_000"]), (["", " x ", "x", "NA"], ["x"]), (["1,5", "?"], ["1,5"])],
)
def test_texts_are_kept_once_and_those_that_are_no_numbers_are_known(values: list[str], strange: list[str]) -> None:
    made = Cells([False], lambda row, column: values[row])
    made.append([values])
    found = made.take(0, np.arange(len(values)))
    assert isinstance(found, Mixture)
    names = np.array(found.texts.names)
    assert names[found.strange].tolist() == strange
    assert names[found.texts.codes].tolist() == ["" if cells.is_missing(value) else value.strip() for value in values]


def test_chosen_rows_of_both_kinds_of_blocks() -> None:
    values: list[cells.Cell] = ["1", "", 2.5, None, "x", "1", "y", ""]
    made = Cells([False, True], lambda row, column: values[row])
    for start in (0, 4):
        made.append([values[start : start + 4]] * 2)
    assert made.missing(0, np.arange(8)) == made.missing(1, np.arange(8)) == 3
    found, texts = made.take(0, np.array([0, 1, 2, 4, 5])), made.take(1, np.array([0, 1, 2, 4, 5]))
    assert isinstance(found, Mixture)
    assert isinstance(texts, Texts)
    np.testing.assert_array_equal(found.numbers, [1, np.nan, 2.5, np.nan, 1])
    assert [found.texts.names[code] if code >= 0 else "a number" for code in found.texts.codes] == [
        *("a number", "", "a number"),
        *("x", "1"),
    ]
    assert [texts.names[code] for code in texts.codes] == ["1", "", "2.5", "x", "1"]


@pytest.mark.usefixtures("tiny_blocks")
def test_blocks_have_all_rows() -> None:
    rows = [(number, (number, str(number))) for number in range(1, 11)]
    blocks = list(blocks_of(rows, 2))
    assert [len(block.numbers) for block in blocks] == [4, 4, 2]
    assert [number for block in blocks for number in block.numbers] == list(range(1, 11))
    assert [cell for block in blocks for cell in block.cells[1]] == [str(number) for number in range(1, 11)]
    assert list(blocks_of([], 2)) == []


def peak_of(source: Path, out: Path) -> int:
    """Bytes that a preparation has allocated at most."""
    tracemalloc.start()
    try:
        prepare(source, out, PrepareConfig())
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def wide_table(path: Path, digits: int, word: str) -> Path:
    """12,000 rows of 24 numbers and 6 categories."""
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(12_000, 24)).tolist()
    names = [f"{word}{i}" for i in range(30)]
    colours = rng.integers(0, 30, (12_000, 6)).tolist()
    rows = (
        [*(f"{value:.{digits}f}" for value in row), *(names[code] for code in codes), "ab"[place % 2]]
        for place, (row, codes) in enumerate(zip(numbers, colours, strict=True))
    )
    return make_csv(path, [[*(f"x{i}" for i in range(24)), *(f"c{i}" for i in range(6)), "label"], *rows])


def test_memory_is_a_few_times_the_file_and_does_not_grow_with_its_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "_BLOCK_CELLS", 1 << 13)  # a block is of some MB, however large the file
    short = wide_table(tmp_path / "short.csv", 4, "c")
    long = wide_table(tmp_path / "long.csv", 15, "a long name of a category ")
    assert long.stat().st_size > 2.5 * short.stat().st_size
    prepare(make_csv(tmp_path / "warm.csv", varied()), tmp_path / "warm", PrepareConfig(max_dropped=1.0))  # imports
    peaks = [peak_of(source, tmp_path / f"of {source.stem}") for source in (short, long)]
    assert peaks[0] < 4 * short.stat().st_size
    assert peaks[1] < 1.1 * peaks[0]
