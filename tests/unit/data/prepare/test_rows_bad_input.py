"""Every table, text and series that cannot be used says what is wrong, where, and what to do; nothing is left."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare.delimited import MAX_FIELD, read_delimited
from scaledl.data.prepare.run import prepare
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

ROWS = "".join(f"{i},{'ab'[i % 2]}\n" for i in range(20))
HEAD = "@timeStamps false\n@univariate true\n@classLabel true a b\n@data\n"
CASES = "".join(f"{i},{i + 1}:{'ab'[i % 2]}\n" for i in range(20))


def refused(tmp_path: Path, files: dict[str, str | bytes], source: str, **settings: Any) -> str:
    """The message, after a look that nothing was left behind and the source is as it was."""
    folder = tmp_path / "source"
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UsageError) as caught:
        prepare(folder / source, tmp_path / "sets/out", PrepareConfig.model_validate(settings))
    assert not (tmp_path / "sets").exists()
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == sorted(files)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (b"x,y\n1,a\n2,\xe9\n", {}, "byte 10, in line 3, is 0xe9, which is no UTF-8"),
        ("x,y\n1,a\n".encode("utf-16"), {}, "is UTF-16; allowed: UTF-8"),
        ("x y\n1 a\n2 b\n", {}, "one column found with the delimiter ','"),
        ("x,y\n" + ROWS, {"delimiter": ";"}, "one column found with the delimiter ';'"),
        ("x,y\n1,a\n2,b,c\n", {}, "row 3 has 3 fields and the header 2"),
        ('x,y\n1,"a\nb"\n\n2\n', {}, "row 4 has 1 fields and the header 2"),
        ('x,y\n1,"a\n2,b\n', {}, "row 2, which ends in line 3: unexpected end of data"),
        (f"x,y\n1,{'a' * (MAX_FIELD + 1)}\n", {}, "row 2, which ends in line 2: field larger than field limit"),
        ("", {}, "is empty"),
        ("x,y\n", {}, "has a header and no rows"),
        ("1.5,2\n3,4\n", {}, "row 1 has numbers only"),
        ("x,x,y\n1,2,a\n", {}, "several columns are named 'x'"),
        ("x,kind\n" + ROWS, {}, "data.prepare.label: missing, and .* its columns: 'x', 'kind'"),
        ("x,kind\n" + ROWS, {"label": "sort"}, "data.prepare.label: got 'sort'; allowed: .*'x', 'kind'"),
        ("x,y\n" + ROWS, {"group": "who"}, "data.prepare.group: got 'who'"),
        ("x,y\n" + ROWS, {"group": "y"}, "data.prepare.group: got 'y', which is the label; allowed: another column"),
        (
            "x,y\n" + ROWS,
            {"kind": "image_folder"},
            "data.prepare.kind: got image_folder, .* is a file; allowed: a fold",
        ),
        (
            "x,y\n" + ROWS,
            {"kind": "python"},
            "got python, .* is a file; allowed: package.module:function as the source",
        ),
        ("x,y\n" + ROWS, {"time": "y"}, "data.prepare.time: got 'a' at t.csv:2; allowed: numbers only, or ISO"),
        ("x,y\n" + ROWS, {"split": "y"}, "data.prepare.split: got 'a' at t.csv:2; allowed: train, val or test"),
        ("x,y\n" + ROWS, {"exclude": ["z"]}, "data.prepare.exclude: got 'z'"),
        ("x,y\n" + ROWS, {"exclude": ["x"]}, "no column is left"),
        ("x,y\n" + ROWS.replace("5,b", "five,b"), {}, "'x': mixes .* 'five' at t.csv:7, and '0' at t.csv:2"),
        ("x;y\n" + ROWS.replace(",", ",5;"), {}, "'x': got '0,5' at t.csv:2; .*decimal commas"),
        ("x,y\n" + ROWS.replace("\n5,", "\n,"), {"missing": "error"}, "t.csv:7 has no value in column 'x'"),
        (
            "x,y\n" + "".join(f"{i},{i / 7}\n" for i in range(60)),
            {"target": "class"},
            "60 different numbers .*target=numbers",
        ),
        ("x,y\n" + ROWS.replace(",a", ",").replace(",b", ","), {}, "none of 20 items has a label"),
        ("x,y\n" + ROWS.replace("b", "a"), {}, "one class only"),
        ("x,y\n" + "99,a\n" * 20 + ROWS, {}, "max_dropped: 19 of 40 .*exact copy.*duplicates=keep"),
        ("x,y,g\n" + ROWS.replace("\n", ",p\n"), {"group": "g"}, "data.prepare.group: 1 groups are too few"),
        ("x,y,t\n" + ROWS.replace("\n", ",1\n"), {"time": "t"}, "20 items at 1 different times"),
        ("x,y,t,g\n" + ROWS.replace("\n", ",1,2\n"), {"time": "t", "group": "g"}, "times and groups; allowed: one"),
    ],
)
def test_tables(tmp_path: Path, content: str | bytes, settings: dict[str, Any], message: str) -> None:
    found = refused(tmp_path, {"t.csv": content}, "t.csv", **settings)
    assert re.search(message, found), found
    assert "\n" not in found


def test_folders_of_tables(tmp_path: Path) -> None:
    table = "x,y\n" + ROWS
    assert "several kinds (.csv .tsv)" in refused(tmp_path / "a", {"a.csv": table, "b.tsv": table}, ".")
    assert "beside them more.csv" in refused(tmp_path / "b", {"train.csv": table, "more.csv": table}, ".")
    other = {"train.csv": table, "test.csv": table.replace("x,", "z,")}
    assert "its columns are not those of" in refused(tmp_path / "c", other, ".")
    new = {"train.csv": table, "test.csv": "x,y\n99,c\n"}
    assert "classes 'c' are in test but not in train" in refused(tmp_path / "d", new, ".")
    several = {"t.csv": "x,y,g,s\n1,a,p,train\n2,b,p,test\n3,b,q,train\n"}
    assert "got 'p' in the source's train and test" in refused(tmp_path / "e", several, "t.csv", group="g", split="s")


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    assert "t.parquet: cannot be read" in refused(tmp_path / "a", {"t.parquet": b"PAR1 no"}, "t.parquet")
    (tmp_path / "b").mkdir()
    parquet.write_table(pyarrow.table({"x": [[1], [2]], "y": ["a", "b"]}), tmp_path / "b" / "t.parquet")
    with pytest.raises(UsageError, match="column 'x' has values of type list"):
        prepare(tmp_path / "b" / "t.parquet", tmp_path / "out", PrepareConfig())


def test_parquet_without_the_library_that_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pyarrow is not installed; install it with: pip install" in refused(
        tmp_path, {"t.parquet": b"PAR1"}, "t.parquet"
    )


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([{"v": [1, 2]}], {"targets": ["v"], "target": "numbers"}, "row 1: 'v' is a list; .*data.prepare.label a list"),
        ([{"v": 1, "w": [2]}], {"targets": ["v", "w"]}, "row 1: 'w' is a list"),
        ([{"v": None}, {"v": ["x"]}], {"targets": ["v"], "target": "numbers"}, "row 2: 'v' is a list"),
        ([{"v": ["x", "y"]}], {"targets": ["v"]}, "row 1: 'v' is a list"),
        ([{"v": [1, 2]}, {"v": [1]}], {"label": "v", "target": "numbers"}, "t.jsonl:2 has 1 of them, t.jsonl:1 2"),
    ],
)
def test_lists_of_labels(tmp_path: Path, rows: list[dict[str, Any]], settings: dict[str, Any], message: str) -> None:
    lines = "".join(json.dumps({"text": f"words of {i}", **row}) + "\n" for i, row in enumerate(rows))
    found = refused(tmp_path, {"t.jsonl": lines}, "t.jsonl", text="text", **settings)
    assert re.search(message, found), found


@pytest.mark.parametrize(
    ("name", "content", "settings", "message"),
    [
        ("t.jsonl", '{"text": "a", "label": 1}\n{"text": \n', {"text": "text"}, "t.jsonl: line 2 is no JSON"),
        ("t.jsonl", '["a"]\n', {"text": "text"}, "line 1 is a list; expected an object"),
        ("t.jsonl", b'{"text": "\xe9"}\n', {"text": "text"}, "byte 10 of line 1 is 0xe9, which is no UTF-8"),
        (
            "t.jsonl",
            '{"a": "a", "b": "c", "label": 1}\n',
            {},
            "data.prepare.text: missing; allowed: .*'a', 'b', 'label'",
        ),
        ("t.jsonl", '{"a": 1.5, "label": 1}\n', {}, "data.prepare.text: missing"),
        ("t.csv", "words,label\na,b\n", {"text": "text"}, "data.prepare.text: got 'text'; allowed: .*'words'"),
        ("t.csv", "text,label\n ,b\n", {"text": "text"}, "has no text; the first: an empty text"),
        ("t.csv", "x,y\n" + ROWS, {"kind": "table", "text": "x"}, "data.prepare.text: got 'x' with kind table"),
        ("t.ts", HEAD + "1,2:a\n1,b:b\n", {}, "t.ts: line 6 has 'b'; allowed: numbers"),
        ("t.ts", HEAD + "1,2:c\n", {}, "line 5 has the class 'c'; allowed by @classLabel: a, b"),
        ("t.ts", HEAD + "1,2:3,4:a\n", {}, "line 5 has 2 dimensions and a class; expected 1"),
        ("t.ts", HEAD.replace("true a b", "false") + CASES, {}, "no classes; expected a line such as: @classLabel"),
        ("t.ts", HEAD.replace("Stamps false", "Stamps true") + CASES, {}, "@timeStamps is true"),
        ("t.ts", HEAD, {}, "no series after @data"),
        ("t.ts", "1,2:a\n", {}, "line 1 is '1,2:a' before @data"),
        ("t.ts", HEAD.encode() + b"1,2:\xe9\n", {}, "byte 4 of line 5 is 0xe9, which is no UTF-8"),
        ("t.ts", HEAD + "::a\n".replace("::", ":"), {}, "no series that can be used; the first: t.ts:5: no values"),
        ("t.ts", HEAD + CASES, {"label": "y"}, "data.prepare.label: got 'y', but .* has no columns"),
        ("N_TEST.ts", HEAD + CASES, {}, "no file of the training split"),
        ("t.xyz", "x", {}, "no source that is known by its name"),
        ("t.txt", "x", {}, "is one text, which is no data set; .*; fix: .* scaledl train data.source=text data.root="),
    ],
)
def test_texts_and_series(
    tmp_path: Path, name: str, content: str | bytes, settings: dict[str, Any], message: str
) -> None:
    found = refused(tmp_path, {name: content}, name, **settings)
    assert re.search(message, found), found


def test_a_folder_of_one_text_without_a_label(tmp_path: Path) -> None:
    found = refused(tmp_path, {"book.txt": "a b c"}, ".", target="none")
    assert "is one text, which is no data set; " in found


def test_folders_of_series_and_texts(tmp_path: Path) -> None:
    two = {"A_TRAIN.ts": HEAD + CASES, "B_TRAIN.ts": HEAD + CASES}
    assert "several data sets (A_TRAIN.ts, B_TRAIN.ts)" in refused(tmp_path / "a", two, ".")
    kinds = {"a.csv": "x,y\n" + ROWS, "b.ts": HEAD + CASES}
    assert "several kinds (series, table); fix: name one with data.prepare.kind" in refused(tmp_path / "b", kinds, ".")
    unequal = {"N_TRAIN.ts": HEAD + CASES, "N_TEST.ts": HEAD.replace("@univariate true\n", "") + "1,2:3,4:a\n"}
    assert "2 dimensions, and N_TRAIN.ts:5 has 1" in refused(tmp_path / "c", unequal, ".")
    texts = {"train/a/1.txt": "x", "other/a/1.txt": "y"}
    assert "has splits (train) and beside them other" in refused(tmp_path / "d", texts, ".")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 24])
@pytest.mark.parametrize(
    ("content", "place", "line", "bad"),
    [
        ("a,y\nü€😀,1\n".encode() + b"x\xffy,2\n", 17, 3, "0xff"),
        ("a,y\nü€😀,1\n".encode() + "é".encode()[:1], 16, 3, "0xc3"),
        (b"\xc3(,y\n", 0, 1, "0xc3"),
    ],
)
def test_where_a_file_is_no_utf_8_whatever_block_it_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, content: bytes, place: int, line: int, bad: str
) -> None:
    monkeypatch.setattr("scaledl.data.prepare.delimited._BLOCK", size)
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"byte {place}, in line {line}, is {bad}, which is no UTF-8"):
        read_delimited(path)
