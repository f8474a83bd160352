"""Files of fortune(6): texts between lines of a single %, each file with its index NAME.dat beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scaledl.data.prepare.items import Dropped, Item
from scaledl.data.prepare.links import check_file
from scaledl.data.prepare.sources import stamp
from scaledl.errors import UsageError

_INDEX = ".dat"


def is_fortunes(source: Path) -> bool:
    """Whether a file, or some file in a folder, has an index of strfile(1) beside it."""
    if not source.is_dir():
        return source.is_file() and source.with_name(source.name + _INDEX).is_file()
    return any(path.suffix == _INDEX and path.with_suffix("").is_file() for path in source.iterdir())


def read_fortunes(source: Path) -> tuple[list[Item], list[Dropped], str]:
    """Every text, of the class that its file is named after; and a stamp of the files.

    Raises UsageError for a file that is no UTF-8, or a link out of the folder.
    """
    files = [source]
    if source.is_dir():
        files = [path.with_suffix("") for path in sorted(source.iterdir()) if path.suffix == _INDEX]
        files = [path for path in files if path.is_file()]
        for path in files:
            check_file(path, source)
    items = [
        Item(f"{path.name}:{number}", path.name, "", text)
        for path in files
        for number, text in enumerate(_texts(path), 1)
    ]
    return items, [], stamp(files)


def _texts(path: Path) -> Iterator[str]:
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UsageError(
            f"{path}: byte {error.start} is {byte:#04x}, which is no UTF-8; fix: save the file as UTF-8"
        ) from None
    for text in f"\n{content}\n".split("\n%\n"):
        if text.strip():
            yield text.strip("\n")
