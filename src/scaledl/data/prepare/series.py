"""Time series: the `.ts` files of the UCR and UEA archives (sktime, aeon), and UCR's older `.tsv` files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scaledl.config.schema import PrepareConfig
from scaledl.data.arrays import Target
from scaledl.data.prepare.items import Collected, Dropped, Item, split_named
from scaledl.data.prepare.links import check_file
from scaledl.data.prepare.sources import no_columns, stamp
from scaledl.errors import UsageError

SUFFIXES = (".ts", ".tsv")
_PART = re.compile(r"(.*)_(train|test|val)", re.IGNORECASE | re.DOTALL)
_NO_LABEL = ("", "?", "nan")
_MOST = float(np.finfo(np.float32).max)


@dataclass
class _Header:
    """What the lines before @data say. `classes` None: the file has no labels."""

    timestamps: bool = False
    classes: set[str] | None = None
    regression: bool = False
    dimensions: int | None = None
    seen: set[str] = field(default_factory=set)


def collect_series(source: Path, config: PrepareConfig) -> Collected:
    """Every series of NAME_TRAIN and NAME_TEST, found from either file or their folder, or of one file.

    Raises UsageError for files that cannot be used.
    """
    no_columns(source, config, "a file of series")
    files = _files(source)
    items: list[Item] = []
    regression = set()
    for split, path in files:
        found, numbers = (
            read_ts(path, split) if path.suffix.lower() == ".ts" else (read_archive_table(path, split), False)
        )
        items += found
        regression.add(numbers)
    if len(regression) > 1:
        raise UsageError(f"{source}: some files have @targetLabel true and others classes; expected one or the other")
    check_channels(items)
    kept = [item for item in items if not problem(item.content)]
    dropped = [Dropped(item.key, problem(item.content)) for item in items if problem(item.content)]
    if not kept:
        first = f"; the first: {dropped[0].key}: {dropped[0].reason}" if dropped else ""
        raise UsageError(f"{source}: no series that can be used{first}")
    target: Target | None = "numbers" if regression == {True} else None
    return Collected("series", kept, dropped, (), stamp([path for _, path in files]), "series", target=target)


def problem(series: Sequence[NDArray[np.float64]]) -> str:
    """Why a series of these channels cannot be used, or an empty text."""
    lengths = sorted({len(values) for values in series})
    if len(lengths) > 1:
        return f"dimensions of different lengths: {lengths[0]} and {lengths[-1]}"
    if lengths == [0]:
        return "no values: its length is zero"
    for number, values in enumerate(series):
        bad = np.flatnonzero(~(np.abs(values) <= _MOST))
        if len(bad):
            kind = "a missing value (NaN)" if np.isnan(values[bad[0]]) else "a value that is infinite as float32"
            return f"{kind}: dimension {number + 1}, step {bad[0] + 1}"
    return ""


def is_archive_table(path: Path) -> bool:
    """Whether a .tsv file is one of UCR's: named NAME_TRAIN or NAME_TEST, and its first line has no column names."""
    if not _PART.fullmatch(path.stem):
        return False
    with path.open("rb") as file:
        first = file.readline(1 << 20).decode(errors="replace").split("\t")
    try:
        [float(cell) for cell in first]
    except ValueError:
        return False
    return True


def read_ts(path: Path, split: str) -> tuple[list[Item], bool]:
    """Items with a list of float64 [T] for each dimension, `?` is NaN; and whether their labels are numbers.

    Raises UsageError naming file and line.
    """
    header, items = _Header(), []
    data = False
    for number, line in _lines(path):
        if data:
            items.append(_case(path, number, line, header, split))
        elif line.lower() == "@data":
            _check_header(path, header)
            data = True
        elif line.startswith("@"):
            _read_header(path, number, line, header)
        else:
            raise UsageError(f"{path}: line {number} is {line[:40]!r} before @data; expected a line that begins with @")
    if not items:
        raise UsageError(f"{path}: {'no series after @data' if data else 'no line @data'}; is it a .ts file?")
    return items, header.regression


def read_archive_table(path: Path, split: str) -> list[Item]:
    """UCR's .tsv: the label, then the values; NaN at the end of a shorter series."""
    items = []
    for number, line in _lines(path):
        label, *cells = line.split("\t")
        values = _numbers(path, number, cells)
        length = int(np.flatnonzero(~np.isnan(values))[-1]) + 1 if (~np.isnan(values)).any() else 0
        items.append(Item(f"{path.name}:{number}", _label(label), split, [values[:length]]))
    return items


def _files(source: Path) -> list[tuple[str, Path]]:
    """(split, file): train before test."""
    if source.is_dir():
        found = [path for path in sorted(source.iterdir()) if path.suffix.lower() in SUFFIXES and not path.is_dir()]
        found = _one_format(found)
        for path in found:
            check_file(path, source)
    else:
        found = [path for path in sorted(source.parent.iterdir()) if _belongs(path, source)]
        for path in found:
            if path != source:  # which may be a link to anywhere
                check_file(path, source.parent)
    named = {path: _part(path) for path in found}
    if len(found) > 1 and (
        "" in {split for _, split in named.values()} or len({name for name, _ in named.values()}) > 1
    ):
        listed = ", ".join(path.name for path in found[:5])
        raise UsageError(f"{source}: holds several data sets ({listed}); fix: name the file of one of them")
    if not found:
        raise UsageError(f"{source}: expected NAME_TRAIN.ts and NAME_TEST.ts, or one .ts file; found none")
    splits = [split for _, split in named.values()]
    if splits and "train" not in splits and splits != [""]:
        raise UsageError(f"{source}: has {found[0].name} and no file of the training split beside it")
    return sorted(((split, path) for path, (_, split) in named.items()), key=lambda pair: (pair[0] != "train", pair))


def _one_format(found: list[Path]) -> list[Path]:
    """The .ts files of a folder that has a data set in both formats."""
    return [path for path in found if path.suffix.lower() == ".ts"] or found


def _belongs(path: Path, source: Path) -> bool:
    """Whether a file is `source`, or another split of the same data set."""
    alike = path.suffix.lower() == source.suffix.lower() and path.is_file()
    return path == source or (alike and _part(path)[1] != "" and _part(path)[0] == _part(source)[0] != path.stem)


def _part(path: Path) -> tuple[str, str]:
    """Name of the data set and split: of NAME_TRAIN.ts, or of train.ts."""
    match = _PART.fullmatch(path.stem)
    if match is not None:
        return match[1], split_named(match[2])
    split = split_named(path.stem)
    return ("" if split else path.stem), split


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, without comments, in which some files of the archive are not UTF-8."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            line = (raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw).strip(
                b" \r\n"
            )  # a tab ends an empty label
            if not line or line.startswith((b"#", b"%")):
                continue
            try:
                yield number, line.decode()
            except UnicodeDecodeError as error:
                raise UsageError(
                    f"{path}: byte {error.start} of line {number} is {line[error.start]:#04x}, which is no UTF-8; "
                    "fix: save the file as UTF-8"
                ) from None


def _read_header(path: Path, number: int, line: str, header: _Header) -> None:
    name, *words = line[1:].split()
    name = name.lower() if line[1:2].strip() else ""
    header.seen.add(name)
    says = bool(words) and words[0].lower() == "true"
    if name == "timestamps":
        header.timestamps = says
    elif name == "classlabel":
        header.classes = {_name(word) for word in words[1:]} if says else None
    elif name == "targetlabel":
        header.regression = says
    elif name in ("dimension", "dimensions"):
        if not (words and words[0].isdecimal()):
            raise UsageError(f"{path}: line {number}: got {line!r}; allowed: @dimensions and a whole number")
        header.dimensions = int(words[0])
    elif name == "univariate" and says:
        header.dimensions = 1


def _check_header(path: Path, header: _Header) -> None:
    if header.timestamps:
        raise UsageError(f"{path}: @timeStamps is true; allowed: false (values at equal distances); fix: resample")
    if header.classes is None and not header.regression:
        raise UsageError(f"{path}: no classes; expected a line such as: @classLabel true NAME NAME")


def _case(path: Path, number: int, line: str, header: _Header, split: str) -> Item:
    *dimensions, label = line.split(":")
    expected = header.dimensions if header.dimensions is not None else len(dimensions)
    header.dimensions = expected
    if len(dimensions) != expected or not dimensions:
        raise UsageError(
            f"{path}: line {number} has {len(dimensions)} dimensions and a class; expected {max(expected, 1)}, as the "
            "header or the line before says"
        )
    values = [_numbers(path, number, text.split(",") if text.strip() else []) for text in dimensions]
    name = _label(label)
    if name is not None and header.classes and _name(name) not in header.classes:
        raise UsageError(
            f"{path}: line {number} has the class {name!r}; allowed by @classLabel: "
            f"{', '.join(sorted(header.classes)[:20])}"
        )
    return Item(f"{path.name}:{number}", name, split, values)


def _numbers(path: Path, number: int, cells: Sequence[str]) -> NDArray[np.float64]:
    try:
        return np.array([float("nan" if cell.strip() == "?" else cell) for cell in cells], np.float64)
    except ValueError:
        odd = next(cell for cell in cells if not _is_value(cell))
        raise UsageError(
            f"{path}: line {number} has {odd[:40]!r}; allowed: numbers, or ? where one is missing"
        ) from None


def _is_value(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell.strip() == "?"
    return True


def _label(text: str) -> str | None:
    return None if text.strip().lower() in _NO_LABEL else text.strip()


def _name(label: str) -> str:
    """Alike for 1, 1.0 and 1e0, which files of the archive mix."""
    try:
        return f"{float(label):g}"
    except ValueError:
        return label


def check_channels(items: Sequence[Item]) -> None:
    """Raises UsageError where not all series have as many channels as the first."""
    first = items[0]
    for item in items:
        if len(item.content) != len(first.content):
            raise UsageError(
                f"{item.key}: {len(item.content)} dimensions, and {first.key} has {len(first.content)}; "
                "expected the same number everywhere"
            )
