"""Where a data set of Hugging Face's `datasets` has its files, and what its classes are called."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaledl.data.prepare.arrow_files import is_image_type
from scaledl.data.prepare.items import SPLITS, split_named
from scaledl.data.prepare.links import check_file
from scaledl.data.prepare.sources import check_named, find_shards, listed
from scaledl.errors import UsageError

DICT, STATE, INFO = "dataset_dict.json", "state.json", "dataset_info.json"
_SUFFIXES = (".parquet", ".arrow")
_MOST_JSON = 64 << 20
_NUMBERED = re.compile(r"-\d{5}-of-\d{5}$")
File = tuple[str, str, Path]  # name below the source, split, path


def is_described(folder: Path) -> bool:
    """Whether a folder has what `save_to_disk` or the cache of `datasets` writes."""
    return any((folder / name).is_file() for name in (DICT, STATE, INFO))


def is_hub(path: Path) -> bool:
    """Whether a file is Parquet with what no plain table has: a description of features, or images; or named as such.

    Names as the hub gives them: train-00000-of-00001.parquet.
    """
    if path.suffix.lower() != ".parquet":
        return False
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return False  # the reader of tables says so
    try:
        schema = pyarrow.parquet.read_schema(path)
    except (OSError, ValueError, pyarrow.ArrowException):
        return False  # and why
    images = any(pyarrow.types.is_struct(kind) and is_image_type(kind) for kind in schema.types)
    return images or bool(_metadata(schema)) or _NUMBERED.search(path.stem) is not None


def find_files(source: Path) -> list[File]:
    """Files by split, train first: as the description says, else by their names. Raises UsageError for none."""
    if (source / DICT).is_file():
        return _files_of_dict(source)
    if (source / STATE).is_file():
        return _files_of_state(source, source, "")
    files = find_shards(source, _SUFFIXES, hidden=(".", "cache-"))
    if len({path.suffix.lower() for _, _, path in files}) > 1:
        raise UsageError(f"{source}: has files of several kinds (.arrow .parquet); fix: move one kind elsewhere")
    return files


def _files_of_dict(source: Path) -> list[File]:
    names = read_json(source / DICT).get("splits")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and _is_plain(name) for name in names):
        raise UsageError(f"{source / DICT}: has no list of splits; fix: save the data set again")
    named = [(name, split_named(name)) for name in names]
    check_named(source, named)
    if len(names) > 1 and not any(split for _, split in named):
        raise UsageError(f"{source}: has splits named {listed(names)}; allowed: train, val or validation, test")
    ordered = sorted(named, key=lambda pair: ("", *SPLITS).index(pair[1]))
    return [file for name, split in ordered for file in _files_of_state(source, source / name, split)]


def _files_of_state(source: Path, folder: Path, split: str) -> list[File]:
    found = read_json(folder / STATE)
    files = found.get("_data_files")
    names = [one.get("filename") if isinstance(one, dict) else None for one in files] if isinstance(files, list) else []
    paths = [folder / name for name in names if isinstance(name, str) and _is_plain(name)]
    if not paths or len(paths) < len(names) or not all(path.is_file() for path in paths):
        raise UsageError(f"{folder / STATE}: names no files, or such as are not there; fix: save the data set again")
    for path in paths:
        check_file(path, source)
    return [
        (path.relative_to(source).as_posix(), split or split_named(str(found.get("_split"))), path) for path in paths
    ]


def _is_plain(name: str) -> bool:
    return Path(name).name == name and name not in ("", "..")  # "." has no name


def descriptions(source: Path, files: Sequence[File]) -> list[Path]:
    """The files that say what the data set consists of, and what its classes are called."""
    folders = sorted({path.parent for _, _, path in files})
    found = [source / DICT, *(folder / name for folder in folders for name in (STATE, INFO))]
    return [path for path in found if path.is_file()]


def class_names(files: Sequence[File], schemas: Sequence[Any]) -> list[dict[str, list[str]]]:
    """Of each file the names of classes by column, as the description beside it or pyarrow's schema of it has them."""
    read = functools.cache(read_json)
    infos = [path.parent / INFO for _, _, path in files]
    return [
        _class_names(read(info) if info.is_file() else _metadata(schema).get("info", {}), schema)
        for info, schema in zip(infos, schemas, strict=True)
    ]


def _class_names(described: Any, schema: Any) -> dict[str, list[str]]:
    features = described.get("features") if isinstance(described, dict) else None
    found: dict[str, list[str]] = {}
    for name, feature in features.items() if isinstance(features, dict) else ():
        names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
        if isinstance(names, list) and name in schema.names and all(isinstance(one, str) for one in names):
            found[name] = names
    return found


def _metadata(schema: Any) -> dict[str, Any]:
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_JSON:
            raise UsageError(f"{path}: {path.stat().st_size:,} bytes; allowed: {_MOST_JSON:,}")
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path}: is a {type(found).__name__}; expected an object with names")
    return found
