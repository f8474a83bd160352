"""WebDataset's shards (Aizman, Maltby and Breuel 2019): tar files in which members of one name make one sample.

Members are never extracted: an image stays where it is in its shard, and is read from there when it is decoded.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare.items import Collected, Dropped, Item
from scaledl.data.prepare.sources import find_shards, no_columns, stamp_of_times
from scaledl.errors import UsageError, require_extra

IMAGES = ("jpg", "jpeg", "png", "webp", "ppm")
MAX_IMAGE = 256 << 20  # bytes of one member
_LABELS = ("cls", "json", "txt")
_MAX_LABEL = 1 << 20
_END = 1024  # bytes, all zero
_MOST_NAME = 200  # characters of a class's name; a longer text is a caption
_Members = dict[str, tarfile.TarInfo]


@dataclass(frozen=True)
class Span:
    """Bytes of a file, `size` of them from `offset` on."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """Raises OSError, also where the file ends before."""
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset)
            found = file.read(self.size)
        if len(found) != self.size:
            raise OSError(0, "the shard ends before it")
        return found


class _BadSample(Exception):
    """Why a sample is not taken."""


def collect_webdataset(source: Path, config: PrepareConfig) -> Collected:
    """Every sample with an image and a label, shard by shard. Raises UsageError for shards that cannot be used."""
    require_extra("PIL", "vision")
    no_columns(source, config, "a set of WebDataset shards")
    shards = find_shards(source, (".tar",))
    items: list[Item] = []
    dropped: list[Dropped] = []
    for name, split, path in shards:
        for key, members in _samples(path).items():
            try:
                items.append(_item(path, f"{name}:{key}", split, members, config))
            except _BadSample as why:
                dropped.append(Dropped(f"{name}:{key}", str(why)))
    if not items:
        first = f"; the first: {dropped[0].key}: {dropped[0].reason}" if dropped else ""
        raise UsageError(
            f"{source}: no sample with an image ({' '.join(IMAGES)}) and a label ({' '.join(_LABELS)}){first}"
        )
    return Collected("webdataset", items, dropped, (), stamp_of_times([(name, path) for name, _, path in shards]))


def _samples(path: Path) -> dict[str, dict[str, tarfile.TarInfo | None]]:
    """Members by what follows the first dot of their names, by what comes before it; None for one that is there twice.

    Raises UsageError for a file that is no tar, damaged or cut short.
    """
    found: dict[str, dict[str, tarfile.TarInfo | None]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in _members(tar):
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                if member.isdir() or not stem:  # .DS_Store, ._NAME
                    continue
                sample = found.setdefault(f"{folder}/{stem}".removeprefix("./").lstrip("/"), {})
                sample[extension.lower()] = None if extension.lower() in sample else member
            _check_end(path, tar)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise UsageError(f"{path}: no tar file that can be read ({error}); {_FIX}") from error
    return found


_FIX = "allowed: a whole tar file without compression; fix: copy it again, or unpack a compressed one with gunzip"


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # it would keep those of a shard of any size
        yield member


def _check_end(path: Path, tar: tarfile.TarFile) -> None:
    """Python's tarfile takes a damaged header for the end, and the end of a file too."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(tar.offset)
        block = file.read(_END)
    if any(block) or len(block) < _END:
        raise UsageError(
            f"{path}: damaged or cut short at byte {min(tar.offset, size):,} of {size:,}, where neither a member nor "
            f"the end of {_END:,} zeros is; {_FIX}"
        )


def _item(path: Path, key: str, split: str, members: dict[str, tarfile.TarInfo | None], config: PrepareConfig) -> Item:
    twice = [name for name, member in members.items() if member is None]
    if twice:
        raise _BadSample(f"the shard has it twice: {twice[0]}")
    known = {name: member for name, member in members.items() if member is not None}
    images = [name for name in known if name.rpartition(".")[2] in IMAGES]
    if len(images) != 1:
        raise _BadSample(f"{len(images) or 'no'} image{'s' if images else ''} by the names: {', '.join(sorted(known))}")
    member = known[images[0]]
    if not member.isreg() or member.issparse():
        raise _BadSample("no regular file")
    if member.size > MAX_IMAGE:
        raise _BadSample(f"too large: {member.size:,} bytes; allowed: {MAX_IMAGE:,}")
    label = None if config.target == "none" else _label(path, known, keep=config.unlabeled == "keep")
    return Item(key, label, split, Span(path, member.offset_data, member.size))


def _label(path: Path, members: _Members, *, keep: bool) -> str | None:
    """`keep`: None where the sample has no member that could say it."""
    name = next((name for name in _LABELS if name in members), None)
    if name is None and keep:
        return None
    if name is None:
        raise _BadSample(f"no label: none of {', '.join(_LABELS)}")
    member = members[name]
    if not member.isreg() or member.issparse() or member.size > _MAX_LABEL:
        raise _BadSample(f"no label: {name} is no file of at most {_MAX_LABEL:,} bytes")
    try:
        text = Span(path, member.offset_data, member.size).read().decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise _BadSample(f"no label: {name} is no UTF-8") from error
    return {"cls": _whole, "json": _of_json, "txt": _name}[name](text)


def _whole(text: str) -> str:
    try:
        return str(int(text))
    except ValueError as error:
        raise _BadSample(f"no label: cls is {text[:50]!r}, which is no whole number") from error


def _of_json(text: str) -> str:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _BadSample("no label: json is no JSON") from error
    label = found.get("label") if isinstance(found, dict) else found
    if isinstance(label, bool) or not isinstance(label, int | str):
        raise _BadSample('no label: json has no "label" that is a whole number or a text')
    return _name(str(label))


def _name(text: str) -> str:
    text = text.strip()
    if not text or "\n" in text or len(text) > _MOST_NAME:
        raise _BadSample(f"no label: its name has {len(text):,} characters; allowed: one line of 1 to {_MOST_NAME}")
    return text
