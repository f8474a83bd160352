"""A Python function of the user's that gives samples: `python:package.module:function`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scaledl.config.imported import import_named, working_directory
from scaledl.config.schema import PrepareConfig
from scaledl.data.arrays import Target
from scaledl.data.prepare import series as series_files
from scaledl.data.prepare import text as text_files
from scaledl.data.prepare.cells import Cell
from scaledl.data.prepare.items import Collected, Dropped, Item, Mask
from scaledl.data.prepare.sources import column, given_split, no_columns
from scaledl.data.prepare.table import label_of
from scaledl.data.prepare.times import read_times
from scaledl.errors import UsageError, require_extra

PREFIX = "python:"
_KEYS = ("x", "label", "split", "group", "time")
_SEVERAL = Mapping | list | tuple | set | frozenset | np.ndarray
_MOST_DIGITS = 300  # of a whole number; no float holds a longer one


def collect_function(source: Path, config: PrepareConfig) -> Collected:
    """Call it and take all that it gives. Raises UsageError for a function that fails, or values that do not fit."""
    name = str(source).removeprefix(PREFIX)
    no_columns(source, config, "a function")
    samples: list[Mapping[str, Any]] = []
    modality = ""
    for number, sample in enumerate(_samples(name)):
        _check_sample(source, number, sample)
        found = _modality(source, number, sample["x"])
        if modality and found != modality:
            raise UsageError(
                f"{source}: sample {number} is for {found} and those before for {modality}; expected one kind"
            )
        modality = found
        samples.append(_copied(sample))
    if not samples:
        raise UsageError(f"{source}: gave no samples")
    columns = _features(source, samples[0]["x"], config) if modality == "table" else []
    return _collected(source, name, modality, samples, columns)


def _copied(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Apart from the function's own, which it may fill anew for the next sample."""
    x = sample["x"]
    return {**sample, "x": x.copy() if isinstance(x, np.ndarray) else dict(x) if isinstance(x, Mapping) else x}


def _features(source: Path, row: Mapping[str, Any], config: PrepareConfig) -> list[str]:
    """Names of a row's cells, without those that the config excludes."""
    for key in ("categorical", "exclude"):
        for name in getattr(config, key):
            column(source, list(row), name, key)
    return [name for name in row if name not in config.exclude]


def _collected(
    source: Path, name: str, modality: str, samples: list[Mapping[str, Any]], columns: list[str]
) -> Collected:
    if modality == "image":
        require_extra("PIL", "vision")
    keys = [f"{name}[{number}]" for number in range(len(samples))]
    times = read_times(
        [(key, sample.get("time")) for key, sample in zip(keys, samples, strict=True)] if _timed(samples) else []
    )
    items: list[Item] = []
    dropped: list[Dropped] = []
    digest = hashlib.sha256()
    first = set(samples[0]["x"]) if modality == "table" else set()
    for key, sample in zip(keys, samples, strict=True):
        _check_columns(source, key, sample["x"], first)
        item = _item(key, sample, modality, columns, times)
        mask = isinstance(item.label, Mask)
        said = (key, None if mask else item.label, item.split, item.group, item.time)
        digest.update(repr(said).encode(errors="surrogatepass"))
        digest.update(_bytes(item.content) + (_bytes(item.label.content) if mask else b""))
        reason = _problem(item, modality, timed=bool(times))
        if reason:
            dropped.append(Dropped(key, reason))
        else:
            items.append(item)
    if not items:
        raise UsageError(f"{source}: no sample that can be used; the first: {dropped[0].reason}")
    if modality == "series":
        series_files.check_channels(items)
    stamp = digest.hexdigest()
    return Collected("python", items, dropped, (), stamp, modality, columns, _target(source, samples, items))


def _target(source: Path, samples: list[Mapping[str, Any]], items: list[Item]) -> Target | None:
    """What the labels are, where it shows: masks, or a tag for each word or step."""
    masks = sum(isinstance(item.label, Mask) for item in items)
    if masks not in (0, len(items)):
        raise UsageError(f"{source}: {masks} of {len(items)} samples have masks; expected all or none")
    tagged = all(_is_tagged(sample) for sample in samples)
    return "mask" if masks else "tags" if tagged else None


def _is_tagged(sample: Mapping[str, Any]) -> bool:
    x, label = sample["x"], sample["label"]
    if isinstance(x, list | tuple):
        return isinstance(label, list | tuple) and len(label) == len(x)
    steps = x.shape[-1] if isinstance(x, np.ndarray) and x.dtype.kind == "f" else 0
    whole = isinstance(label, np.ndarray) and label.dtype.kind in "iu" and label.ndim == 1
    return steps > 1 and (whole or isinstance(label, list | tuple)) and len(label) == steps


def _timed(samples: list[Mapping[str, Any]]) -> bool:
    return any(sample.get("time") is not None for sample in samples)


def _problem(item: Item, modality: str, *, timed: bool) -> str:
    if timed and item.time is None:
        return "no time"
    if modality == "text":
        return text_files.problem(item.content)
    if modality == "series":
        return series_files.problem(item.content)
    return ""


def _check_columns(source: Path, key: str, x: Any, first: set[str]) -> None:
    odd = sorted(set(x) ^ first) if isinstance(x, Mapping) else []
    if odd:
        raise UsageError(f"{source}: {key} has other columns than the first: {', '.join(odd[:5])}")


def _item(key: str, sample: Mapping[str, Any], modality: str, columns: list[str], times: dict[str, float]) -> Item:
    split = given_split(str(sample["split"]), key) if sample.get("split") is not None else ""
    label = _label(key, sample["label"])
    group = None if sample.get("group") is None else str(sample["group"])
    content = _words(sample["x"])
    if modality == "table":
        content = tuple(_cell(content[name]) for name in columns)
    elif modality == "series":
        content = list(np.asarray(content, np.float64))
    return Item(key, label, split, content, group, times.get(key))


def _check_sample(source: Path, number: int, sample: Any) -> None:
    if not isinstance(sample, Mapping) or not {"x", "label"} <= set(sample):
        got = f"keys {', '.join(map(str, sample))}" if isinstance(sample, Mapping) else f"a {type(sample).__name__}"
        raise UsageError(f"{source}: sample {number}: got {got}; expected a dict with x and label")
    apart = next((key for key in ("group", "time") if sample.get(key) is not None), "")
    if apart and isinstance(sample["x"], np.ndarray) and sample["x"].dtype == np.uint8:
        raise UsageError(f"{source}: sample {number}: got a {apart} with an image; allowed: with others")
    odd = [str(key) for key in sample if key not in _KEYS]
    if odd:
        raise UsageError(f"{source}: sample {number}: got the key {odd[0]!r}; allowed: {', '.join(_KEYS)}")
    _check_cells(source, number, {key: value for key, value in sample.items() if key not in ("x", "label")})
    _check_label(source, number, sample["label"])
    if isinstance(sample["x"], Mapping):
        _check_cells(source, number, sample["x"])


def _check_label(source: Path, number: int, label: Any) -> None:
    """One value, a list of such, or whole numbers [H, W]."""
    if isinstance(label, np.ndarray):
        mask = label.ndim == 2 and label.dtype.kind in "iu"
        if not mask and (label.dtype.kind not in "iufbU" or label.ndim != 1):
            raise UsageError(
                f"{source}: sample {number}: label is {label.dtype} {label.shape}; allowed: one value, a list of "
                "such, or whole numbers [H, W]"
            )
        return
    for cell in label if isinstance(label, list | tuple | set | frozenset) else [label]:
        _check_cells(source, number, {"label": cell})


def _check_cells(source: Path, number: int, cells: Mapping[Any, Any]) -> None:
    for name, value in cells.items():
        if not isinstance(name, str):
            raise UsageError(
                f"{source}: sample {number}: got the column name {name!r} ({type(name).__name__}); allowed: texts"
            )
        if isinstance(value, _SEVERAL):
            raise UsageError(f"{source}: sample {number}: {name} is a {type(value).__name__}; allowed: one value")
        if isinstance(value, int) and abs(value) >= 10**_MOST_DIGITS:
            raise UsageError(
                f"{source}: sample {number}: {name} is a whole number of more than {_MOST_DIGITS} digits; allowed: "
                "shorter ones, or a text"
            )


def _label(key: str, label: Any) -> Any:
    """A name; of several a tuple; of whole numbers [H, W] a mask."""
    if isinstance(label, np.ndarray) and label.ndim == 2:
        return Mask(f"{key}.label", label.copy())
    if isinstance(label, np.ndarray):
        return tuple(label_of(_cell(cell)) for cell in label.tolist())
    if isinstance(label, list | tuple):
        return tuple(label_of(_cell(cell)) for cell in label)
    if isinstance(label, set | frozenset):
        return tuple(sorted(str(cell) for cell in label))
    return label_of(_cell(label))


def _words(x: Any) -> Any:
    return " ".join(map(str, x)) if isinstance(x, list | tuple) else x


def _modality(source: Path, number: int, x: Any) -> str:
    if isinstance(x, str) or (isinstance(x, list | tuple) and all(isinstance(word, str) for word in x)):
        return "text"
    if isinstance(x, Mapping):
        return "table"
    if isinstance(x, np.ndarray) and x.dtype == np.uint8 and x.ndim == 3 and x.shape[2] in (1, 3) and x.size:
        return "image"
    if isinstance(x, np.ndarray) and x.dtype.kind == "f" and x.ndim == 2 and len(x):
        return "series"
    got = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
    raise UsageError(
        f"{source}: sample {number}: x is {got}; allowed: uint8 [H, W, C] with C 1 or 3 for images, floats [C, T] for "
        "series (no H, W or C is 0), a text or a list of words, or a dict for a row"
    )


def _cell(value: Any) -> Cell:
    value = value.item() if isinstance(value, np.generic) else value
    return str(value) if isinstance(value, bool) or not isinstance(value, str | int | float | None) else value


def _bytes(content: Any) -> bytes:
    if isinstance(content, np.ndarray):
        return repr(content.shape).encode() + content.tobytes()
    if isinstance(content, list):
        return b"".join(_bytes(values) for values in content)
    return repr(content).encode(errors="surrogatepass")


def _samples(name: str) -> Iterator[Any]:
    """What the function gives. An error of its own is told with its type, its place and the sample it was at."""
    number = 0
    with working_directory():
        try:
            for sample in _function(name)():
                yield sample
                number += 1
        except UsageError:
            raise
        except (Exception, SystemExit) as error:  # sys.exit(0) would end the program as if all were well
            raise UsageError(f"{PREFIX}{name}: failed at sample {number}: {type(error).__name__}: {error}") from error


def _function(name: str) -> Any:
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise UsageError(f"SOURCE: got {PREFIX}{name}; allowed: {PREFIX}package.module:function")
    found = import_named(name, f"{PREFIX}{name}")
    if not callable(found):
        raise UsageError(f"{PREFIX}{name}: is a {type(found).__name__}; expected a function without arguments")
    return found
