"""Which kind of source a path is, and its items."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare.conll import SUFFIXES as CONLL_SUFFIXES
from scaledl.data.prepare.conll import collect_conll
from scaledl.data.prepare.folder import EXTENSIONS, collect_folder
from scaledl.data.prepare.fortunes import is_fortunes
from scaledl.data.prepare.function import PREFIX, collect_function
from scaledl.data.prepare.hf_layout import is_described, is_hub
from scaledl.data.prepare.huggingface import collect_huggingface
from scaledl.data.prepare.items import Collected, listed_label
from scaledl.data.prepare.mask_folder import collect_masks, has_masks
from scaledl.data.prepare.npz import collect_npz
from scaledl.data.prepare.series import collect_series, is_archive_table
from scaledl.data.prepare.sources import COLUMN_KEYS, is_pattern, no_columns
from scaledl.data.prepare.table import collect_table
from scaledl.data.prepare.text import collect_text
from scaledl.data.prepare.webdataset import collect_webdataset
from scaledl.errors import UsageError, require_extra

KINDS: dict[str, Callable[[Path, PrepareConfig], Collected]] = {
    "image_folder": lambda source, config: (
        collect_masks(source) if has_masks(source) else collect_folder(source, classes=config.target != "none")
    ),
    "npz": collect_npz,
    "conll": collect_conll,
    "table": collect_table,
    "text": collect_text,
    "series": collect_series,
    "python": collect_function,
    "huggingface": collect_huggingface,
    "webdataset": collect_webdataset,
}
_ROW_KEYS = {*COLUMN_KEYS, "delimiter", "missing", "categorical", "exclude"}
_IMAGE_KEYS = {"size", "fit", "channels", "max_pixels", "min_side", "max_ratio", "near_distance"}
_CALLED = {"image": "images", "table": "rows of a table", "text": "texts", "series": "series"}
_OF_COLUMNS = ("categorical", "exclude")
_WITHOUT_COLUMNS = {"image_folder": "a folder of images", "npz": "an .npz file"}
_ONLY_FOR = {
    **dict.fromkeys(sorted(_IMAGE_KEYS), ("image",)),
    **{"near_duplicates": ("image", "text"), "near_similarity": ("text",), "delimiter": ("table", "text")},
    **dict.fromkeys(("missing", *_OF_COLUMNS), ("table",)),
}
_SUFFIXES = {
    **{".npz": "npz", ".csv": "table", ".tsv": "table", ".parquet": "table", ".jsonl": "text", ".ts": "series"},
    **{".tar": "webdataset", ".arrow": "huggingface"},
    **dict.fromkeys(CONLL_SUFFIXES, "conll"),
}
_PATTERNS = {".tar": "webdataset", ".arrow": "huggingface", ".parquet": "huggingface"}
_WANTED = {"image_folder": "a folder", "npz": "a file", "python": "package.module:function"}
_MOST_FILES = 10_000  # looked at in a folder, to tell what it is


def collect(source: Path, kind: str, config: PrepareConfig) -> Collected:
    """Raises UsageError for a source that its reader cannot use."""
    if kind == "image_folder":
        require_extra("PIL", "vision")
    try:
        collected = KINDS[kind](source, config)
    except OSError as error:
        raise UsageError(f"{error.filename or source}: cannot be read: {error.strerror or error}") from error
    _check_names(source, collected)
    _check_used(source, collected, config)
    return collected


def _check_used(source: Path, collected: Collected, config: PrepareConfig) -> None:
    """Raises UsageError for a key that is set and of no use for such a source."""
    if what := _WITHOUT_COLUMNS.get(collected.kind):
        no_columns(source, config, what)
    default = PrepareConfig()
    for key, modalities in _ONLY_FOR.items():
        value = getattr(config, key)
        used = collected.modality in modalities or (key in _OF_COLUMNS and _tells_columns(collected))
        if not used and value != getattr(default, key) and (key, value) != ("near_duplicates", "keep"):
            raise UsageError(
                f"data.prepare.{key}: got {value!r}, but {source} holds {_CALLED[collected.modality]}; "
                f"allowed: with {' and '.join(_CALLED[name] for name in modalities)}; fix: leave it out"
            )


def _tells_columns(collected: Collected) -> bool:
    """Whether a column of texts was found among others."""
    return (collected.kind, collected.modality) == ("huggingface", "text")


def unused_keys(collected: Collected) -> set[str]:
    """Of `data.prepare`, what makes no difference to a data set of this kind."""
    if collected.modality == "image":
        labels = set(COLUMN_KEYS) if collected.kind == "huggingface" else set()
        return {*_ROW_KEYS, "near_similarity"} - labels
    return _IMAGE_KEYS | ({"near_duplicates", "near_similarity"} if collected.modality != "text" else set())


def _check_names(source: Path, collected: Collected) -> None:
    """All that the document and the lists repeat is UTF-8. Raises UsageError for bytes of a name that are not."""
    _check_text(source.name, "the source", source.name)
    for name in collected.columns:
        _check_text(name, "a column", name)
    for item in collected.items:
        _check_text(item.key, "the name", item.key)
        for label in item.label if isinstance(item.label, tuple) else (listed_label(item.label),):
            _check_text(str(label or ""), "the label", item.key)
    if collected.kind == "python" and collected.modality == "table":  # files were decoded
        for item in collected.items:
            _check_text("".join(cell for cell in item.content if isinstance(cell, str)), "a cell", item.key)


def _check_text(text: str, what: str, key: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = f"{_escaped(key)}: {what} is no UTF-8" + (f": {_escaped(text)}" if text != key else "")
        raise UsageError(f"{shown}; allowed: UTF-8, without halves of surrogate pairs; fix: rename it") from None


def _escaped(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def is_function(source: Path) -> bool:
    return str(source).startswith(PREFIX)


def kind_of(source: Path, config: PrepareConfig) -> str:
    """The kind that the config names, else what the files look like. Raises UsageError where neither says."""
    if is_function(source) and config.kind in ("auto", "python"):
        return "python"
    if is_pattern(source):
        return _kind_of_pattern(source)
    if not source.exists():
        raise UsageError(f"{source}: no such file or folder")
    if config.kind != "auto":
        return _given_kind(source, config.kind)
    found = _kind_of_folder(source, config) if source.is_dir() else _kind_of_file(source, config)
    if not found:
        raise UsageError(
            f"{source}: no source that is known by its name; allowed: a folder of images, of texts or of tables, or a "
            f"file that ends in {' '.join(_SUFFIXES)}"
        )
    return found


def _given_kind(source: Path, kind: str) -> str:
    """Of arrays in a file it says what they are. Raises UsageError for a kind that the source cannot be."""
    arrays = source.suffix.lower() == ".npz" and not source.is_dir()
    fits = {"image_folder": source.is_dir(), "npz": not source.is_dir(), "python": False}.get(kind, True)
    if arrays and kind in ("series", "table"):
        return "npz"
    if not fits or (arrays and kind != "npz"):
        what = "an .npz file" if arrays else "a folder" if source.is_dir() else "a file"
        wanted = "npz, series, table" if arrays else f"{_WANTED[kind]} as the source, or another kind"
        raise UsageError(
            f"data.prepare.kind: got {kind}, and {source} is {what}; allowed: {wanted}; fix: leave it out (auto)"
        )
    return kind


def _kind_of_pattern(source: Path) -> str:
    found = _PATTERNS.get(source.suffix.lower())
    if found is None:
        raise UsageError(f"{source}: no file of this name; as a pattern it has to end in one of {' '.join(_PATTERNS)}")
    return found


def _kind_of_file(path: Path, config: PrepareConfig) -> str:
    if is_fortunes(path) or path.suffix.lower() == ".txt":
        return "text"
    return "huggingface" if is_hub(path) else _by_suffix(path, config)


def _by_suffix(path: Path, config: PrepareConfig) -> str:
    found = _SUFFIXES.get(path.suffix.lower(), "")
    if found == "table" and config.text is not None:
        return "text"
    return "series" if path.suffix.lower() == ".tsv" and is_archive_table(path) else found


def _kind_of_folder(root: Path, config: PrepareConfig) -> str:
    """What its files say: images or shards anywhere, else tables or series in the folder, else texts below it."""
    if is_described(root):
        return "huggingface"
    if is_fortunes(root):
        return "text"
    files: list[Path] = []
    for path in islice(_files(root), _MOST_FILES):
        if path.suffix.lower() in EXTENSIONS:
            return "image_folder"
        files.append(path)
    if any(path.suffix.lower() == ".tar" for path in files):
        return "webdataset"
    parquet = [path for path in files if path.suffix.lower() == ".parquet"]
    if any(path.parent != root or is_hub(path) for path in parquet[:1]):
        return "huggingface"
    found = {_by_suffix(path, config) for path in files if path.parent == root} - {"", "npz"}
    if len(found) > 1:
        raise UsageError(
            f"{root}: holds files of several kinds ({', '.join(sorted(found))}); fix: name one with data.prepare.kind"
        )
    unlabelled = config.target == "none"
    texts = any(path.suffix.lower() == ".txt" and (path.parent != root or unlabelled) for path in files)
    return found.pop() if found else "text" if texts else "image_folder"


def _files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders.sort()
        yield from (Path(folder) / name for name in sorted(names) if not name.startswith("."))
