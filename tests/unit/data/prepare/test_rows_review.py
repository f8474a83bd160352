"""What a review of tables, texts, series, arrays and functions found: no traceback, and nothing lost in silence."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare import contents, store, text
from scaledl.data.prepare.collect import collect
from scaledl.data.prepare.columns import read_columns
from scaledl.data.prepare.items import Collected, Item
from scaledl.data.prepare.layout import lay_out
from scaledl.data.prepare.run import prepare
from scaledl.data.prepare.targets import labelled
from scaledl.errors import ScaledlError, UsageError

pytestmark = pytest.mark.unit

Give = Callable[[str], Path]


@pytest.fixture
def give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Give]:
    """The source for a function of this body."""

    def write(body: str) -> Path:
        lines = ["import sys", "import numpy as np", "def samples():", *(f"    {line}" for line in body.split("\n"))]
        (tmp_path / "reviewed.py").write_text("\n".join(lines) + "\n")
        sys.modules.pop("reviewed", None)
        return Path("python:reviewed:samples")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two versions within one second look alike
    yield write
    sys.modules.pop("reviewed", None)


def refused(source: Path, out: Path, **settings: Any) -> str:
    with pytest.raises(UsageError) as caught:
        prepare(source, out, PrepareConfig.model_validate(settings))
    assert not out.exists()
    return str(caught.value)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_function_excludes_and_has_categories(tmp_path: Path, give: Give) -> None:
    source = give("return [{'x': {'a': i, 'b': i % 3, 'leak': i % 2}, 'label': i % 2} for i in range(40)]")
    document = prepare(source, tmp_path / "out", PrepareConfig(exclude=["leak"], categorical=["b"]))
    assert [(column["name"], column["kind"]) for column in document["columns"]] == [("a", "numeric"), ("b", "category")]
    assert "data.prepare.exclude: got 'c'" in refused(source, tmp_path / "new", exclude=["c"])
    assert "data.prepare.categorical: got 'c'" in refused(source, tmp_path / "new", categorical=["c"])


@pytest.mark.parametrize(
    ("values", "categories"),
    [
        (["12345678901234567890", "12345678901234567891"], 2),
        (["02139", "2139"], 2),
        (["1e3", "1000"], 2),
        (["2139.0", "2139", "7"], 2),
    ],
)
def test_categories_fold_whole_floats_only(values: list[str], categories: int) -> None:
    items = [Item(str(row), "a", "", (value,)) for row, value in enumerate(values)]
    columns, _ = read_columns(items, ["c"], PrepareConfig(categorical=["c"]))
    assert columns[0].distinct() == categories


@pytest.mark.parametrize("odd", [{"text": {"a": [1]}, "label": 1}, {"text": "a", "label": [[1], 0]}])
def test_nested_cells_of_jsonl(tmp_path: Path, odd: dict[str, Any]) -> None:
    fine = {"text": "a", "label": 1, "unused": [1, 2]}
    message = refused(write_jsonl(tmp_path / "t.jsonl", [fine, odd]), tmp_path / "out", text="text")
    assert "t.jsonl: row 2: '" in message


def test_distinct_names_in_every_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_MOST_COLUMNS", 10)
    rows = [{"text": "a", "label": 1, f"key {i}": 1} for i in range(20)]
    message = refused(write_jsonl(tmp_path / "t.jsonl", rows), tmp_path / "out", text="text")
    assert "got 11 different names up to line 9; allowed: 10" in message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sys.exit(0)", "python:reviewed:samples: failed at sample 0: SystemExit: 0"),
        ("return [{'x': np.zeros((0, 4, 3), np.uint8), 'label': 1}]", "x is uint8 (0, 4, 3); allowed"),
        ("return [{'x': np.zeros((0, 4)), 'label': 1}]", "x is float64 (0, 4); allowed"),
        ("return [{'x': np.zeros((i + 1, 4)), 'label': i} for i in range(2)]", "[1]: 2 dimensions, and"),
        ("return [{'x': {1: 2}, 'label': 1}]", "sample 0: got the column name 1 (int); allowed: texts"),
        ("return [{'x': {'a': 10**400}, 'label': 1}]", "sample 0: a is a whole number of more than 300 digits"),
        ("return [{'x': {'a': 1}, 'label': -10**5000}]", "sample 0: label is a whole number of more than 300 digits"),
        ("return [{'x': 'a', 'label': [1, [0]]}]", "sample 0: label is a list; allowed: one value"),
        ("return [{'x': 'a', 'label': np.zeros((2, 2))}]", "sample 0: label is float64 (2, 2); allowed: one value"),
        ("return [{'x': {'a': i, 'b': '\\ud800'}, 'label': i} for i in range(2)]", "[0]: a cell is no UTF-8"),
    ],
)
def test_functions_that_fail(tmp_path: Path, give: Give, body: str, message: str) -> None:
    assert message in refused(give(body), tmp_path / "out")


@pytest.mark.parametrize("x", ["np.zeros((2, 3), np.float32)", "np.zeros((4, 4, 3), np.uint8)", "{'a': 0}"])
def test_a_function_may_use_one_buffer_again(give: Give, x: str) -> None:
    source = give(f"x = {x}\nfor i in range(4):\n    x['a' if isinstance(x, dict) else 0] = i\n"
                  "    yield {'x': x, 'label': i}")  # fmt: skip
    contents = [item.content for item in collect(source, "python", PrepareConfig()).items]
    assert [np.ravel(content)[0] for content in contents] == [0, 1, 2, 3]


def test_a_full_disk_while_series_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series = [np.full((2, length), length, np.float32) for length in (3, 1)]
    store.write_padded(tmp_path, "train", series, (2, 2, 3))
    written = np.load(tmp_path / "train-series.npy")
    assert (written[0] == 3).all()
    assert written[1].tolist() == [[1, 0, 0], [1, 0, 0]]

    def full(*_: Any, **__: Any) -> np.ndarray:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(store.np, "zeros", full)  # between the header and the rows
    with pytest.raises(ScaledlError, match="no space left"):
        store.write_padded(tmp_path, "val", series, (2, 2, 3))
    assert [path.name for path in tmp_path.iterdir()] == ["train-series.npy"]


def test_one_series_that_is_far_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, give: Give) -> None:
    monkeypatch.setattr(contents, "_MOST_PADDED", 1 << 10)
    body = "return [{'x': np.full((1, 2 if i else LONG), float(i)), 'label': i % 2} for i in range(40)]"
    message = refused(give(body.replace("LONG", "300")), tmp_path / "out")
    assert "data.prepare: got reviewed:samples[0] with 300 steps, where the median is 2" in message
    prepare(give(body.replace("LONG", "150")), tmp_path / "out", PrepareConfig())


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": "\ud800" if i % 2 else "a"} for i in range(20)]
    message = refused(write_jsonl(tmp_path / "t.jsonl", rows), tmp_path / "out", text="text")
    assert r"t.jsonl:2: the label is no UTF-8: \ud800; allowed: UTF-8" in message
    folder = tmp_path / "texts"
    for number in range(20):
        path = folder / ("cl\udcff" if number % 2 else "b\n\x01") / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text {number}")
    assert r"cl\udcff/1.txt: the name is no UTF-8" in refused(folder, tmp_path / "out")
    (folder / "cl\udcff").rename(folder / "c\n\x02")
    assert prepare(folder, tmp_path / "out", PrepareConfig())["labels"] == ["b\n\x01", "c\n\x02"]


def test_arrays_that_are_no_archive(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    path = tmp_path / "a.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros((4, 4), np.uint8))
    assert "a.npz: is one array as of np.save" in refused(path, tmp_path / "out")
    np.savez(path, x=np.uint8(1), y=np.zeros(3, np.int64))
    assert "a.npz: y is (3,), x (); expected one label for each sample" in refused(path, tmp_path / "out")
    path.write_bytes(b"")
    assert "a.npz: cannot be read" in refused(path, tmp_path / "out")


def test_arrays_that_are_not_used_are_not_loaded(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    path = tmp_path / "a.npz"
    images = np.random.default_rng(0).integers(0, 255, (4, 8, 8), dtype=np.uint8)
    np.savez(path, x=images, y=[0, 1, 0, 1], other=np.array([{}], object))  # which would be refused
    assert len(collect(path, "npz", PrepareConfig()).items) == 4


def test_labels_of_very_many_digits() -> None:
    names = ("9" * 5000, "9" * 400, "0.5", "10")
    items = [Item(str(i), names[i % 4], "", None) for i in range(40)]
    found = labelled(Collected("table", items, modality="table"), PrepareConfig())
    layout = lay_out(found, found.items, lambda labels, items, names: np.array(["train"] * len(items)))
    assert layout.names == ("10", "0.5", "9" * 400, "9" * 5000)


def test_parquet_values_that_python_cannot_hold(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    far = pyarrow.array([2**62, 1], pyarrow.int64())
    broken = pyarrow.StringArray.from_buffers(
        2, pyarrow.py_buffer(np.array([0, 1, 2], np.int32)), pyarrow.py_buffer(b"\xff\xfe")
    )
    columns = (
        far.cast(pyarrow.timestamp("us")),
        pyarrow.array([1, 2], pyarrow.timestamp("s", "Mars/Olympus")),
        broken,
    )
    for values in columns:
        parquet.write_table(pyarrow.table({"x": values, "y": ["a", "b"]}), tmp_path / "t.parquet")
        assert "t.parquet: column 'x' of type" in refused(tmp_path / "t.parquet", tmp_path / "out")
