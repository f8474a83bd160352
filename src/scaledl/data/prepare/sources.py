"""Files of one data set: one, or a folder of them, and what they share."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare.items import SPLITS, split_named
from scaledl.data.prepare.links import check_file, files_below
from scaledl.errors import UsageError
from scaledl.run.files import sha256_file

COLUMN_KEYS = ("label", "targets", "text", "group", "time", "split")
_LABELS = ("label", "target", "class", "y")


def find_files(source: Path, suffixes: Sequence[str]) -> list[tuple[str, Path]]:
    """(split, file) of a file, or of a folder's files that all end alike, train first. Empty: no name says the split.

    Raises UsageError for a folder without such files, with several kinds of them, with links out of it or to nothing
    among them, or with other names beside splits.
    """
    if not source.is_dir():
        return [("", source)]
    files = _such(source.iterdir(), suffixes, (".",))
    for path in files:
        check_file(path, source)
    kinds = sorted({path.suffix.lower() for path in files})
    if len(kinds) != 1:
        got = f"files of several kinds ({' '.join(kinds)})" if kinds else "no such file"
        raise UsageError(
            f"{source}: got {got}; allowed: a folder whose files all end in one of {' '.join(suffixes)}, or "
            "the name of one file"
        )
    named = [(split_named(path.stem), path) for path in files]
    check_named(source, [(path.name, split) for split, path in named])
    return sorted(named, key=lambda pair: ("", *SPLITS).index(pair[0]))


def find_shards(source: Path, suffixes: Sequence[str], hidden: tuple[str, ...] = (".",)) -> list[tuple[str, str, Path]]:
    """(name, split, file) of a file, of a pattern's files, or of those below a folder that end so, train first.

    The split is what a folder's or the file's own name says: train/0001.tar, imagenet-train-0001.tar,
    train-00000-of-00009.parquet. Raises UsageError where there is no such file, where one is a link out of the folder
    or to nothing, or only some names say a split.
    """
    root, paths = _shards(source)
    kept = _such(paths, suffixes, hidden)
    if not kept:
        raise UsageError(f"{source}: no file that ends in {' '.join(suffixes)}")
    for path in kept:
        if path != source:  # which may be a link to anywhere
            check_file(path, root)
    found = [(path.relative_to(root).as_posix(), path) for path in kept]
    named = [(name, _split_in(name), path) for name, path in found]
    check_named(source, [(name, split) for name, split, _ in named])
    return sorted(named, key=lambda shard: ("", *SPLITS).index(shard[1]))


def _such(paths: Iterable[Path], suffixes: Sequence[str], hidden: tuple[str, ...]) -> list[Path]:
    fits = [path for path in sorted(paths) if path.suffix.lower() in suffixes and not path.name.startswith(hidden)]
    return [path for path in fits if not path.is_dir()]


def is_pattern(source: Path) -> bool:
    """Whether a source stands for all files whose names fit."""
    return glob.has_magic(str(source)) and not source.exists()


def _shards(source: Path) -> tuple[Path, list[Path]]:
    if is_pattern(source):
        paths = [Path(name) for name in glob.glob(str(source), recursive=True)]  # noqa: PTH207 (which takes no ..)
        return Path(os.path.commonpath([path.parent for path in paths]) if paths else "."), paths
    if not source.is_dir():
        return source.parent, [source]
    return source, list(files_below(source))


def _split_in(name: str) -> str:
    """The split that one word of a path says; empty where none does, or where its file's name says several."""
    *folders, file = name.split("/")
    words = re.split(r"[^A-Za-z]+", file.rpartition(".")[0])
    for said in ({split_named(folder) for folder in folders}, {split_named(word) for word in words}):
        said = said - {""}
        if len(said) == 1:
            return said.pop()
    return ""


def check_named(source: Path, named: Sequence[tuple[str, str]]) -> None:
    """`named`: names and what splits they say. Raises UsageError where some say one and others do not."""
    strange = [name for name, split in named if not split]
    if strange and len(strange) < len(named):
        splits = ", ".join([name for name, split in named if split][:5])
        raise UsageError(
            f"{source}: has splits ({splits}) and beside them {', '.join(strange[:5])}; "
            "fix: move what is no split elsewhere"
        )


def stamp_of_times(files: Iterable[tuple[str, Path]]) -> str:
    """Changes when a file's size or time does: of names and files that would take long to read."""
    digest = hashlib.sha256()
    for name, path in files:
        found = path.stat()
        digest.update(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def stamp(files: Sequence[Path]) -> str:
    """Changes when a file does."""
    parts = [f"{path.name}\0{sha256_file(path)}\n" for path in files]
    return hashlib.sha256("".join(parts).encode(errors="surrogateescape")).hexdigest()


def column(path: Path, columns: Sequence[str], name: str, key: str) -> int:
    """The place of a column that the config names. Raises UsageError where there is none."""
    if name not in columns:
        raise UsageError(f"data.prepare.{key}: got {name!r}; allowed: a column of {path}: {listed(columns)}")
    return columns.index(name)


def label_columns(path: Path, columns: Sequence[str], config: PrepareConfig) -> tuple[int, ...]:
    """The columns that the config names, else the one with a usual name; none where nothing is to be learned.

    Raises UsageError where it is not clear.
    """
    if config.targets:
        if config.label is not None:
            raise UsageError(
                f"data.prepare.targets: got them and data.prepare.label={config.label}; allowed: one of them"
            )
        return tuple(column(path, columns, name, "targets") for name in dict.fromkeys(config.targets))
    if config.label is not None:
        return (column(path, columns, config.label, "label"),)
    usual = _usual_label(columns)
    if usual is None and config.target != "none":
        raise UsageError(
            f"data.prepare.label: missing, and {path} has no column named {', '.join(_LABELS)}; "
            f"allowed: one of its columns: {listed(columns)}, or data.prepare.target=none"
        )
    return () if usual is None else (usual,)


def _usual_label(columns: Sequence[str]) -> int | None:
    for name in _LABELS:
        found = [place for place, other in enumerate(columns) if other.lower() == name]
        if len(found) == 1:
            return found[0]
    return None


def named_columns(path: Path, columns: Sequence[str], config: PrepareConfig, labels: Sequence[int]) -> dict[str, int]:
    """Places of the columns that say something of the split, those that the config names. `labels`: of the labels.

    Raises UsageError for a column that is not there, and for groups that are the label.
    """
    names = {key: getattr(config, key) for key in ("group", "time", "split")}
    found = {key: column(path, columns, name, key) for key, name in names.items() if name is not None}
    if found.get("group") in labels:
        raise UsageError(
            f"data.prepare.group: got {config.group!r}, which is the label; allowed: another column of {path}, or "
            "another one in data.prepare.label"
        )
    return found


def given_split(value: str, where: str) -> str:
    """The split that a cell names. Raises UsageError for another word."""
    split = split_named(value.strip())
    if not split:
        raise UsageError(f"data.prepare.split: got {value!r} at {where}; allowed: train, val or test")
    return split


def no_columns(source: Path, config: PrepareConfig, what: str) -> None:
    """Raises UsageError where the config names columns of a source that has none."""
    for key in COLUMN_KEYS:
        if getattr(config, key):
            raise UsageError(
                f"data.prepare.{key}: got {getattr(config, key)!r}, but {source} is {what}, which has no columns; "
                "fix: leave it out"
            )


def listed(columns: Sequence[str]) -> str:
    """The first of them, for a message."""
    return ", ".join(map(repr, columns[:20])) + (f" and {len(columns) - 20} more" if len(columns) > 20 else "")
