"""What a source consists of, before anybody has looked inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from scaledl.data.arrays import Target
from scaledl.data.prepare.cells import Cells

SPLITS = ("train", "val", "test")


class Stored(Protocol):
    """An encoded image that lies inside a larger file."""

    def read(self) -> bytes:
        """Its bytes. Raises OSError. Called by several threads at once, and again after an interruption."""
        ...


@dataclass(frozen=True, slots=True)
class Item:
    """One sample.

    Attributes:
        key: where it is, as a reader of the list would look for it: a path below the source, or FILE:ROW.
        label: name of its class; several names or numbers as a tuple; a mask; None where the source has none.
        split: train, val or test where the source says so, else empty.
        content: an image's file, what is `Stored`, or uint8 [H, W, C] pixels; the cells of a row, or its number
            where they are kept by column; a text; float64 [C, T] of a series.
        group: items with the same one stay in one split; None where the source has no groups.
        time: seconds or any other number that grows; None where the source has no times.
    """

    key: str
    label: Any
    split: str
    content: Any
    group: str | None = None
    time: float | None = None


@dataclass(frozen=True)
class Mask:
    """A class for each pixel of an image.

    Attributes:
        key: where it is.
        content: its file, or whole numbers [H, W].
        digest: of its pixels, once it has been read; masks are the same where this is.
    """

    key: str
    content: Any
    digest: str = ""

    def __str__(self) -> str:
        return f"mask {self.digest[:12]}"


def listed_label(label: Any) -> Any:
    """As it stands in a list for people: of a mask, where it is; of a number that is not there, nothing."""
    if isinstance(label, tuple):
        return tuple(None if one != one else one for one in label)
    return label.key if isinstance(label, Mask) else label


@dataclass(frozen=True)
class Dropped:
    """An item that the data set does not have. `of`: the key of the item that it is a copy of."""

    key: str
    reason: str
    of: str = ""

    def to_dict(self) -> dict[str, str]:
        return {"key": self.key, "reason": self.reason, **({"of": self.of} if self.of else {})}


@dataclass(frozen=True)
class Collected:
    """All items of a source, ordered by key, and what was found that is none."""

    kind: str
    items: Sequence[Item]
    dropped: Sequence[Dropped] = ()
    notes: Sequence[str] = field(default_factory=tuple)
    stamp: str = ""  # changes when the source does
    modality: str = "image"
    columns: Sequence[str] = ()  # of a table, in the order of its items' cells
    target: Target | None = None  # what the labels are, where the source says
    label_names: Sequence[str] = ()  # of the columns with labels, or of the classes of masks
    cells: Cells | None = None  # of a table that is kept by column


def split_named(name: str) -> str:
    """The split that a folder or file of this name holds, or an empty text.

    >>> split_named("Validation"), split_named("cat")
    ('val', '')
    """
    return {
        **dict.fromkeys(("train", "training"), "train"),
        **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
        **dict.fromkeys(("test", "testing"), "test"),
    }.get(name.lower(), "")
