"""Texts: files in folders of classes, or rows of CSV, TSV and JSONL files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from scaledl.config.schema import PrepareConfig
from scaledl.data.arrays import Target
from scaledl.data.prepare.delimited import read_delimited
from scaledl.data.prepare.folder import find_class_files
from scaledl.data.prepare.fortunes import is_fortunes, read_fortunes
from scaledl.data.prepare.items import Collected, Dropped, Item
from scaledl.data.prepare.sources import column, find_files, label_columns, listed, named_columns, no_columns, stamp
from scaledl.data.prepare.table import Row, rows_of
from scaledl.errors import UsageError

SUFFIXES = (".csv", ".tsv", ".jsonl")
_MOST = 1 << 24  # characters of a text: more than any book has
_TOO_LONG = f"a text of more than {_MOST:,} characters"
_MOST_BYTES = 4 * _MOST + 3  # of a file whose text is not too long: UTF-8, and the mark before it
_MOST_COLUMNS = 10_000  # every line has a cell for each


def collect_text(source: Path, config: PrepareConfig) -> Collected:
    """Every text that is not empty. Raises UsageError for files that cannot be used."""
    if is_fortunes(source):
        no_columns(source, config, "a file of fortunes")
        return collected_texts(source, *read_fortunes(source))
    if source.is_dir() and not any(path.suffix.lower() in SUFFIXES for path in source.iterdir()):
        return _collect_folder(source, config)
    if source.suffix.lower() == ".txt":
        raise _one_text(source)
    files = find_files(source, SUFFIXES)
    items: list[Item] = []
    dropped: list[Dropped] = []
    targets = set()
    for split, path in files:
        found, lost, target = _collect_file(path, split, config)
        items += found
        dropped += lost
        targets.add(target)
    made = collected_texts(source, items, dropped, stamp([path for _, path in files]))
    return replace(made, target=targets.pop() if len(targets) == 1 else None, label_names=config.targets)


def collected_texts(source: Path, items: list[Item], dropped: list[Dropped], stamp: str) -> Collected:
    """Those that can be used. Raises UsageError where none can."""
    kept = []
    for item in items:
        reason = problem(item.content)
        if reason:
            dropped.append(Dropped(item.key, reason))
        else:
            kept.append(item)
    if not kept:
        raise UsageError(f"{source}: has no text" + (f"; the first: {dropped[0].reason}" if dropped else ""))
    return Collected("text", kept, dropped, (), stamp, "text")


def problem(text: str) -> str:
    """Why a text cannot be used, or an empty one."""
    if not text.strip():
        return "an empty text"
    if len(text) > _MOST:
        return _TOO_LONG
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"no UTF-8: half of a surrogate pair at character {error.start}"
    return ""


def _collect_folder(root: Path, config: PrepareConfig) -> Collected:
    no_columns(root, config, "a folder of texts")
    items: list[Item] = []
    dropped: list[Dropped] = []
    digest = hashlib.sha256()
    for key, label, split, path in sorted(_class_files(root, config, dropped), key=lambda found: found[0]):
        try:
            if (size := path.stat().st_size) > _MOST_BYTES:
                digest.update(f"{key}\0{size}\n".encode(errors="surrogateescape"))
                dropped.append(Dropped(key, _TOO_LONG))
                continue
            content = path.read_bytes()
            digest.update(f"{key}\0{hashlib.sha256(content).hexdigest()}\n".encode(errors="surrogateescape"))
            items.append(Item(key, label, split, content.decode("utf-8-sig")))
        except UnicodeDecodeError as error:
            dropped.append(Dropped(key, f"no UTF-8: byte {error.start} is {error.object[error.start]:#04x}"))
        except OSError as error:
            dropped.append(Dropped(key, f"cannot be read: {error.strerror}"))
    if config.target == "none" and len(items) == 1 and not dropped:
        raise _one_text(root)
    return collected_texts(root, items, dropped, digest.hexdigest())


def _one_text(source: Path) -> UsageError:
    return UsageError(
        f"{source}: is one text, which is no data set; allowed: a folder of texts, or a file with one in each row "
        f"({', '.join(SUFFIXES)}); fix: a language model learns from a text as it is: scaledl train "
        f"data.source=text data.root={source} model.family=gpt task.name=language_modeling"
    )


def _class_files(root: Path, config: PrepareConfig, dropped: list[Dropped]) -> list[tuple[str, str | None, str, Path]]:
    return find_class_files(root, (".txt",), "text", dropped, classes=config.target != "none")


def _collect_file(path: Path, split: str, config: PrepareConfig) -> tuple[list[Item], list[Dropped], Target | None]:
    """Texts that are lists of words have a tag for each, if their labels are lists too."""
    columns, rows = _read_jsonl(path) if path.suffix.lower() == ".jsonl" else _read_delimited(path, config)
    labels = label_columns(path, columns, config)
    named = named_columns(path, columns, config, labels)
    text = _text_column(path, columns, rows, {*labels, *named.values()}, config)
    if "split" in named and split:
        raise UsageError(f"data.prepare.split: got {config.split!r}, but the files' names say the split already")
    words = all(isinstance(cells[place], list) for _, cells in rows for place in (text, *labels)) and len(labels) == 1
    lists = {text} if config.targets and not words else {text, *labels}  # a cell of several targets is one of them
    _check_cells(path, columns, rows, {text, *labels, *named.values()}, lists)
    keyed: list[Row] = [(f"{path.name}:{row}", split, cells) for row, cells in rows]
    return *rows_of(keyed, labels, named, lambda cells: _content(cells[text])), "tags" if words else None


def _text_column(
    path: Path, columns: list[str], rows: list[tuple[int, list[Any]]], others: set[int], config: PrepareConfig
) -> int:
    """The place that the config names, else that of `text`, or the only one beside the others, if it holds texts."""
    if config.text is not None:
        return column(path, columns, config.text, "text")
    left = [place for place, name in enumerate(columns) if place not in others]
    named = [place for place in left if columns[place] == "text"]
    texts = all(isinstance(cells[place], str | list | None) for _, cells in rows for place in left[:1])
    if not named and (len(left) != 1 or not texts):
        raise UsageError(
            f"data.prepare.text: missing; allowed: the column of {path} that holds the text: {listed(columns)}"
        )
    return (named or left)[0]


def _content(cell: Any) -> str:
    """A text; of a list its words."""
    return " ".join(map(str, cell)) if isinstance(cell, list) else "" if cell is None else str(cell)


def _check_cells(
    path: Path, columns: list[str], rows: list[tuple[int, list[Any]]], used: set[int], lists: set[int]
) -> None:
    """`lists`: places where a list of words or labels may stand."""
    for row, cells in rows:
        for place in used:
            cell = cells[place]
            plain = isinstance(cell, list) and place in lists and not any(isinstance(one, list | dict) for one in cell)
            if isinstance(cell, list | dict) and not plain:
                raise UsageError(
                    f"{path}: row {row}: {columns[place]!r} is a {type(cell).__name__}; allowed: a text, a "
                    "number, true, false or null; of the text and of data.prepare.label a list of such, too; fix: "
                    "flatten it"
                )


def _read_delimited(path: Path, config: PrepareConfig) -> tuple[list[str], list[tuple[int, list[Any]]]]:
    columns, rows = read_delimited(path, config.delimiter)
    return columns, [(row, list(cells)) for row, cells in rows]


def _read_jsonl(path: Path) -> tuple[list[str], list[tuple[int, list[Any]]]]:
    """Names of all that any line has, and the lines' values; what a line does not have is missing."""
    found: list[tuple[int, dict[str, Any]]] = []
    names: dict[str, None] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                found.append((number, _object(path, number, line)))
                names.update(dict.fromkeys(found[-1][1]))
                _check_width(path, number, len(names))
    columns = list(names)
    return columns, [(number, [row.get(name) for name in columns]) for number, row in found]


def _check_width(path: Path, number: int, width: int) -> None:
    if width > _MOST_COLUMNS:
        raise UsageError(
            f"{path}: got {width:,} different names up to line {number}; allowed: {_MOST_COLUMNS:,} in one file; "
            "fix: give every line the same names"
        )


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: byte {error.start} of line {number} is {line[error.start]:#04x}, which is no UTF-8; "
            "fix: save the file as UTF-8"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: line {number} is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path}: line {number} is a {type(value).__name__}; expected an object with names")
    return value
