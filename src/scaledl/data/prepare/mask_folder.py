"""Images with masks: ROOT/images/NAME.jpg and ROOT/masks/NAME.png, or the same below train, val and test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from scaledl.data.prepare.folder import EXTENSIONS, files_of, splits_of
from scaledl.data.prepare.items import Collected, Dropped, Item, Mask
from scaledl.data.prepare.links import check_file
from scaledl.errors import UsageError

IMAGES, MASKS = "images", "masks"
_NAMES = "classes.txt"
_MASK_EXTENSIONS = (".png", ".bmp", ".tif", ".tiff", ".gif", ".pgm")


def has_masks(root: Path) -> bool:
    """Whether there are such folders, side by side, in a folder or in its splits."""
    return any(_both(folder) for folder in (root, *(path for path in sorted(root.iterdir()) if path.is_dir())))


def collect_masks(root: Path) -> Collected:
    """Every image with its mask; `classes.txt`, where there is one, names the classes 0, 1, … a line each.

    Raises UsageError where no image has a mask.
    """
    items: list[Item] = []
    dropped: list[Dropped] = []
    digest = hashlib.sha256()
    for split, folder in [("", root)] if _both(root) else splits_of(root):
        for key, mask in _pairs(root, folder, dropped):
            for name in (key, mask):
                found = (root / name).stat()
                digest.update(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\n".encode(errors="surrogateescape"))
            items.append(Item(key, Mask(mask, root / mask), split, root / key))
    if not items:
        first = f"; the first: {dropped[0].key}: {dropped[0].reason}" if dropped else ""
        raise UsageError(f"{root}: no image with a mask; expected {IMAGES}/NAME.jpg and {MASKS}/NAME.png{first}")
    items.sort(key=lambda item: item.key)
    names = _names(root)
    digest.update("\n".join(names).encode())
    return Collected("image_folder", items, dropped, (), digest.hexdigest(), target="mask", label_names=names)


def _both(folder: Path) -> bool:
    return (folder / IMAGES).is_dir() and (folder / MASKS).is_dir()


def _pairs(root: Path, folder: Path, dropped: list[Dropped]) -> Iterator[tuple[str, str]]:
    masks = {key.rpartition(".")[0].replace(f"{MASKS}/", "", 1): key for key in _files(root, folder / MASKS, dropped)}
    for key in _files(root, folder / IMAGES, dropped):
        stem = key.rpartition(".")[0].replace(f"{IMAGES}/", "", 1)
        if not key.lower().endswith(EXTENSIONS):
            dropped.append(Dropped(key, f"no image by its name; known: {' '.join(EXTENSIONS)}"))
        elif not masks.get(stem, "").lower().endswith(_MASK_EXTENSIONS):
            dropped.append(Dropped(key, f"no mask: none of its name in {MASKS}; known: {' '.join(_MASK_EXTENSIONS)}"))
        else:
            yield key, masks[stem]


def _files(root: Path, folder: Path, dropped: list[Dropped]) -> Iterator[str]:
    return files_of(folder, root, dropped)


def _names(root: Path) -> tuple[str, ...]:
    path = root / _NAMES
    if not path.is_file():
        return ()
    check_file(path, root)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: byte {error.start} is no UTF-8; fix: save the file as UTF-8") from None
    names = tuple(line.strip() for line in lines if line.strip())
    if len(set(names)) < len(names) or len(names) > 255:
        raise UsageError(f"{path}: wanted at most 255 names, each once, a line each")
    return names
