"""Image folders in ImageNet's layout: ROOT/CLASS/FILE, or ROOT/{train,val,test}/CLASS/FILE.

What lies in ROOT/unlabeled, beside the classes or the splits, has no label: so STL-10, or IMDB's train/unsup, have it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from scaledl.data.prepare.items import Collected, Dropped, Item, split_named
from scaledl.data.prepare.links import may_link
from scaledl.errors import UsageError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
UNLABELED = ("unlabeled", "unlabelled", "unsup")
_IGNORED = (".DS_Store", "Thumbs.db", "desktop.ini")


def collect_folder(root: Path, *, classes: bool = True) -> Collected:
    """Every file below the classes' folders, without `classes` every file at all. Raises UsageError for none."""
    items: list[Item] = []
    dropped: list[Dropped] = []
    digest = hashlib.sha256()
    for key, label, split, path in find_class_files(root, EXTENSIONS, "image", dropped, classes=classes):
        found = path.stat()
        digest.update(f"{key}\0{found.st_size}\0{found.st_mtime_ns}\n".encode(errors="surrogateescape"))
        items.append(Item(key, label, split, path))
    items.sort(key=lambda item: item.key)
    return Collected("image_folder", items, dropped, _notes(root, items), digest.hexdigest())


def find_class_files(
    root: Path, extensions: Sequence[str], what: str, dropped: list[Dropped], *, classes: bool = True
) -> list[tuple[str, str | None, str, Path]]:
    """Key, class, split and path of every file in a class's folder; others with these names go to `dropped`.

    In a folder of such a name files have no class.

    Without `classes` files may lie anywhere.

    Raises UsageError where there is none.
    """
    found: list[tuple[str, str | None, str, Path]] = []
    for split, folder in splits_of(root, UNLABELED):
        beside = folder != root and folder.name.lower() in UNLABELED
        split = "train" if beside else split
        above = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
        for key in files_of(folder, root, dropped):
            label, *below = key.removeprefix(above).split("/")
            if not key.lower().endswith(tuple(extensions)):
                dropped.append(Dropped(key, f"no {what} by its name; known: {' '.join(extensions)}"))
            elif classes and (beside or (below and label.lower() in UNLABELED)):
                found.append((key, None, split, root / key))
            elif not below and classes:
                dropped.append(Dropped(key, "lies beside the classes' folders, so it has no label"))
            else:
                found.append((key, label, split, root / key))
    if not any(label is not None for _, label, _, _ in found):
        raise UsageError(
            f"{root}: no {what} in a folder of a class; expected {root}/CLASS/FILE{extensions[0]}, or "
            f"{root}/train/CLASS/FILE{extensions[0]} and the same below val or test"
        )
    return found


def splits_of(root: Path, others: Sequence[str] = ()) -> list[tuple[str, Path]]:
    """Split names and their folders; one without a name where the classes lie in the root itself, and where a folder of
    the `others` lies beside the splits."""
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    named = [(split_named(path.name), path) for path in folders]
    if not any(split == "train" for split, _ in named):
        return [("", root)]
    strange = [path.name for split, path in named if not split and path.name.lower() not in others]
    if strange:
        raise UsageError(
            f"{root}: has splits ({', '.join(path.name for split, path in named if split)}) and beside them "
            f"{', '.join(strange[:5])}; fix: move what is no split elsewhere"
        )
    return named


def files_of(folder: Path, root: Path, dropped: list[Dropped]) -> Iterator[str]:
    """Keys of regular files. Links are followed inside the root only, and never round in circles."""
    top = os.path.realpath(root)
    key = "" if folder == root else folder.relative_to(root).as_posix()
    yield from _walk(str(root), key, top, {os.path.realpath(folder)}, dropped)


def _walk(root: str, key: str, top: str, above: set[str], dropped: list[Dropped]) -> Iterator[str]:
    """Texts instead of paths: of a million files these would take longer than reading them."""
    try:
        entries = sorted(os.scandir(f"{root}/{key}"), key=lambda entry: entry.name)
    except OSError as error:
        dropped.append(Dropped(key, f"folder cannot be read: {error.strerror}"))
        return
    for entry in entries:
        below = f"{key}/{entry.name}" if key else entry.name
        if entry.name in _IGNORED or entry.name.startswith("._"):
            continue
        problem = _problem_of_link(entry, top) if entry.is_symlink() else ""
        if problem:
            dropped.append(Dropped(below, problem))
        elif entry.is_dir():
            real = os.path.realpath(entry.path)
            if real in above:
                dropped.append(Dropped(below, "a link to a folder that it lies in"))
            else:
                yield from _walk(root, below, top, above | {real}, dropped)
        elif entry.is_file():
            yield below
        else:
            dropped.append(Dropped(below, "no regular file"))


def _problem_of_link(entry: os.DirEntry[str], top: str) -> str:
    real = os.path.realpath(entry.path)
    if real != top and not real.startswith(f"{top.rstrip('/')}/") and not may_link(Path(real), Path(top)):
        return "a link out of the source's folder"
    return "" if Path(real).exists() else "a link to nothing"


def _notes(root: Path, items: list[Item]) -> list[str]:
    splits = {item.split for item in items}
    by_split = {
        split: {item.label for item in items if item.split == split and item.label is not None} for split in splits
    }
    missing = sorted(
        str(label) for label in set().union(*by_split.values()) - by_split.get("train", by_split.get("", set()))
    )
    if missing:
        raise UsageError(
            f"{root}: {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''} in "
            f"{' and '.join(sorted(splits - {'train'}))} "
            "but not in train; fix: give every class training images, or remove it everywhere"
        )
    return []
