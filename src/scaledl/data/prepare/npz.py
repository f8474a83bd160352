"""NumPy's .npz files with samples and labels, by the names that such files commonly use."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaledl.config.schema import PrepareConfig
from scaledl.data.arrays import Target
from scaledl.data.prepare import series
from scaledl.data.prepare.items import Collected, Dropped, Item, Mask
from scaledl.errors import UsageError, require_extra
from scaledl.run.files import sha256_file

# x and y of each split: Keras, MedMNIST, and plain names.
_NAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels"), ("X_train", "y_train")),
    "val": (("x_val", "y_val"), ("val_images", "val_labels"), ("X_val", "y_val")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels"), ("X_test", "y_test")),
    "": (("x", "y"), ("images", "labels"), ("X", "y"), ("data", "labels"), ("data", "target")),
}


@dataclass(frozen=True)
class _Pair:
    """Arrays of a split, and what they are called."""

    split: str
    names: tuple[str, str]
    x: NDArray[Any]
    y: NDArray[Any]


def collect_npz(path: Path, config: PrepareConfig) -> Collected:
    """Raises UsageError for a file without samples and labels, with objects in it, or that is damaged."""
    try:
        pairs = _read(path)
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from error
    kinds = {_kind(path, pair, config) for pair in pairs}
    if len(kinds) > 1:
        raise UsageError(f"{path}: {pairs[0].names} and {pairs[1].names} are not of one kind")
    [(modality, target)] = kinds
    items = [item for pair in pairs for item in _ITEMS[modality](path, pair, target)]
    names = list(map(str, range(pairs[0].y.shape[1]))) if target == "classes" else []
    made = Collected("npz", items, stamp=sha256_file(path), modality=modality, target=target, label_names=names)
    if modality == "table":
        return replace(made, columns=_columns(pairs))
    return _without_problems(made) if modality == "series" else made


def _read(path: Path) -> list[_Pair]:
    """What else the file holds is not loaded."""
    loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise UsageError(f"{path}: is one array as of np.save; allowed: several, of np.savez")
    with loaded as file:
        pairs = _pairs(path, file.files)
        arrays = {name: file[name] for name in sorted({name for pair in pairs.values() for name in pair})}
    odd = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    if odd:
        raise UsageError(f"{path}: {odd[0]} is no array; allowed: arrays, of np.savez")
    return [_Pair(split, (x, y), arrays[x], arrays[y]) for split, (x, y) in pairs.items()]


def _pairs(path: Path, names: list[str]) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for split, choices in _NAMES.items():
        pair = next(((x, y) for x, y in choices if x in names and y in names), None)
        if pair is not None and not (split == "" and found):
            found[split] = pair
    if not found:
        raise UsageError(
            f"{path}: got arrays {', '.join(sorted(names)) or 'none'}; expected x_train and y_train (or "
            "train_images and train_labels), the same with val and test, or x and y"
        )
    return found


def _kind(path: Path, pair: _Pair, config: PrepareConfig) -> tuple[str, Target | None]:
    """What the samples are, and what their labels, where their shape says it."""
    x, y, whole = pair.x, pair.y, pair.y.dtype.kind in "iub"
    if y.shape[:1] != x.shape[:1] or not len(x):
        raise UsageError(
            f"{path}: {pair.names[1]} is {y.shape}, {pair.names[0]} {x.shape}; expected one label for each sample"
        )
    tags = whole and y.ndim == 2 and x.dtype.kind == "f" and y.shape[1] == x.shape[-1] > 1
    said = config.target == "tags" or config.kind == "series"  # 0 and 1 may also mark several classes of a row
    if tags and x.ndim in (2, 3) and config.target in ("auto", "tags", "none") and (said or not _is_marked(y)):
        return "series", "tags"
    if whole and y.ndim == 3 and config.kind not in ("series", "table"):
        return "image", "mask"
    if y.ndim > 2 or y.dtype.kind not in "iufUSb":
        raise UsageError(f"{path}: {pair.names[1]} is {y.dtype} {y.shape}; expected whole numbers, floats or texts")
    several = y.ndim == 2 and y.shape[1] > 1
    target: Target | None = "numbers" if y.dtype.kind == "f" else "classes" if several else None
    if several and target == "classes" and not _is_marked(y):
        raise UsageError(
            f"{path}: {pair.names[1]} is {y.dtype} {y.shape} with other values than 0 and 1; expected one label for "
            "each sample, 0 and 1 for each of several classes, or floats"
        )
    return _modality(path, pair, config), target


def _modality(path: Path, pair: _Pair, config: PrepareConfig) -> str:
    """Numbers in two dimensions are rows and in more of them images, unless the config says that they are series."""
    x, kind = pair.x, config.kind
    if kind not in ("series", "table"):
        return "table" if x.ndim == 2 else "image"
    if x.ndim not in ((2, 3) if kind == "series" else (2,)) or x.dtype.kind not in "iufb":
        wanted = "[N, C, T] or [N, T]" if kind == "series" else "[N, F]"
        raise UsageError(
            f"data.prepare.kind: got {kind}, and {pair.names[0]} of {path} is {x.dtype} {x.shape}; allowed: numbers "
            f"{wanted}, or another kind"
        )
    return kind


def _is_marked(y: NDArray[Any]) -> bool:
    return y.dtype.kind in "iub" and bool(((y == 0) | (y == 1)).all())


def _labels(path: Path, pair: _Pair, target: Target | None) -> Sequence[Any]:
    y = pair.y
    if target == "mask":
        return [Mask(f"{path.name}:{pair.names[1]}[{row}]", mask) for row, mask in enumerate(y)]
    if target == "tags":
        return [tuple(map(str, row)) for row in y.tolist()]
    if target == "classes":
        return [tuple(str(place) for place in np.flatnonzero(row)) for row in y]
    if target == "numbers":
        return [tuple(None if one != one else one for one in row) for row in y.reshape(len(y), -1).tolist()]
    return [_name(label) for label in y.reshape(-1)]


def _name(label: Any) -> str:
    return label.decode(errors="replace") if isinstance(label, bytes) else str(label)


def _keyed(path: Path, pair: _Pair, target: Target | None, contents: Sequence[Any]) -> list[Item]:
    labels = _labels(path, pair, target)
    return [
        Item(f"{path.name}:{pair.names[0]}[{row}]", label, pair.split, content)
        for row, (content, label) in enumerate(zip(contents, labels, strict=True))
    ]


def _images(path: Path, pair: _Pair, target: Target | None) -> list[Item]:
    require_extra("PIL", "vision")
    return _keyed(path, pair, target, _channels_last(path, pair.names[0], pair.x))  # type: ignore[arg-type]


def _rows(path: Path, pair: _Pair, target: Target | None) -> list[Item]:
    if pair.x.dtype.kind not in "iufb":
        raise UsageError(f"{path}: {pair.names[0]} is {pair.x.dtype}; expected numbers")
    return _keyed(path, pair, target, [tuple(row) for row in pair.x.tolist()])


def _series(path: Path, pair: _Pair, target: Target | None) -> list[Item]:
    channels = pair.x[:, None] if pair.x.ndim == 2 else pair.x
    return _keyed(path, pair, target, [list(sample) for sample in channels.astype(np.float64)])


_ITEMS = {"image": _images, "table": _rows, "series": _series}


def _columns(pairs: Sequence[_Pair]) -> list[str]:
    widths = {pair.x.shape[1] for pair in pairs}
    if len(widths) > 1:
        raise UsageError(f"{pairs[0].names[0]}: rows of {min(widths)} and of {max(widths)} columns")
    return [f"x{place}" for place in range(widths.pop())]


def _without_problems(made: Collected) -> Collected:
    kept = [item for item in made.items if not series.problem(item.content)]
    dropped = [Dropped(item.key, series.problem(item.content)) for item in made.items if series.problem(item.content)]
    if not kept:
        raise UsageError(f"{dropped[0].key}: no series can be used; the first: {dropped[0].reason}")
    series.check_channels(kept)
    return replace(made, items=kept, dropped=dropped)


def _channels_last(path: Path, name: str, images: NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 [N, H, W, C] from [N, H, W], [N, H, W, C] or [N, C, H, W]; whole numbers and floats in 0..1 or 0..255."""
    plain = images.ndim == 3
    if plain:
        images = images[..., None]
    if images.ndim == 4 and images.shape[3] not in (1, 3) and images.shape[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise UsageError(
            f"{path}: {name} is {images.shape}; expected [N, H, W], [N, H, W, C] or [N, C, H, W], C 1 or 3"
        )
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    if images.dtype.kind not in "iuf":
        raise UsageError(f"{path}: {name} is {images.dtype}; expected numbers")
    low, high = float(images.min()), float(images.max())
    if not (np.isfinite(low) and np.isfinite(high) and low >= 0 and high <= 255):
        hint = "; fix: data.prepare.kind=series, if these are series [N, C, T]" if plain else ""
        raise UsageError(
            f"{path}: {name} has values from {low:g} to {high:g}; expected 0..255, or 0..1 as floats{hint}"
        )
    scale = 255 if images.dtype.kind == "f" and high <= 1 else 1
    return np.ascontiguousarray((images.astype(np.float64) * scale).round().astype(np.uint8))
