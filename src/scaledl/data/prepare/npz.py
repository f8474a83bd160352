"""NumPy's .npz files with images and labels, by the names that such files commonly use."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaledl.data.prepare.items import Collected, Item
from scaledl.errors import UsageError
from scaledl.run.files import sha256_file

# x and y of each split: Keras, MedMNIST, and plain names.
_NAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels"), ("X_train", "y_train")),
    "val": (("x_val", "y_val"), ("val_images", "val_labels"), ("X_val", "y_val")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels"), ("X_test", "y_test")),
    "": (("x", "y"), ("images", "labels"), ("X", "y"), ("data", "labels"), ("data", "target")),
}


def collect_npz(path: Path) -> Collected:
    """Raises UsageError for a file without images and labels, with objects in it, or that is damaged."""
    try:
        pairs, arrays = _read(path)
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from error
    items: list[Item] = []
    for split, pair in pairs.items():
        items += _items(path, split, *pair, arrays)
    return Collected("npz", items, stamp=sha256_file(path))


def _read(path: Path) -> tuple[dict[str, tuple[str, str]], dict[str, NDArray[Any]]]:
    """Names of images and labels by split, and these arrays; what else the file holds is not loaded."""
    loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise UsageError(f"{path}: is one array as of np.save; allowed: several, of np.savez")
    with loaded as file:
        pairs = _pairs(path, file.files)
        wanted = sorted({name for pair in pairs.values() for name in pair})
        arrays = {name: file[name] for name in wanted}
    odd = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    if odd:
        raise UsageError(f"{path}: {odd[0]} is no array; allowed: arrays, of np.savez")
    return pairs, arrays


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


def _items(path: Path, split: str, x_name: str, y_name: str, arrays: dict[str, NDArray[Any]]) -> list[Item]:
    images, labels = arrays[x_name], arrays[y_name]
    labels = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1 or images.shape[:1] != labels.shape:
        raise UsageError(
            f"{path}: {y_name} is {labels.shape}, {x_name} {images.shape}; expected one label for each image"
        )
    if labels.dtype.kind not in "iuUSb":
        raise UsageError(f"{path}: {y_name} is {labels.dtype}; expected whole numbers or texts")
    images = _channels_last(path, x_name, images)
    return [
        Item(f"{path.name}:{x_name}[{row}]", _name(label), split, image)
        for row, (image, label) in enumerate(zip(images, labels, strict=True))
    ]


def _name(label: Any) -> str:
    return label.decode(errors="replace") if isinstance(label, bytes) else str(label)


def _channels_last(path: Path, name: str, images: NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 [N, H, W, C] from [N, H, W], [N, H, W, C] or [N, C, H, W]; whole numbers and floats in 0..1 or 0..255."""
    if images.ndim == 3:
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
        raise UsageError(f"{path}: {name} has values from {low:g} to {high:g}; expected 0..255, or 0..1 as floats")
    scale = 255 if images.dtype.kind == "f" and high <= 1 else 1
    return np.ascontiguousarray((images.astype(np.float64) * scale).round().astype(np.uint8))
