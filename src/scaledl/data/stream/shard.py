"""One file of a stream, in the safetensors format, with a header that follows from what is in it."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from scaledl.errors import UsageError

POPULATE_READ = 22  # MADV_POPULATE_READ of Linux 5.14: maps all pages; what cannot be read is an error, not a SIGBUS
_HWPOISON = 133
AGAIN = "fix: copy it again from where it was made, or prepare the data again with --force"


@dataclass(frozen=True)
class ShardFile:
    """What a shard has to be: its name, rows, bytes, and their SHA-256."""

    name: str
    rows: int
    bytes: int
    sha256: str

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def header(rows: int, shape: tuple[int, ...]) -> bytes:
    """What a shard of so many images uint8 [H, W, C] begins with: ids, labels, images, in this order."""
    tensors, begin = {}, 0
    for name, dtype, sizes in (("ids", "I64", [rows]), ("labels", "I64", [rows]), ("images", "U8", [rows, *shape])):
        end = begin + int(np.prod(sizes)) * (8 if dtype == "I64" else 1)
        tensors[name] = {"dtype": dtype, "shape": sizes, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(tensors, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_shard(file: IO[bytes], ids: NDArray[np.int64], labels: NDArray[np.int64], images: NDArray[np.uint8]) -> None:
    """ids, labels: [N]; images: [N, H, W, C]."""
    file.write(header(len(ids), images.shape[1:]))
    for values in (ids, labels, images):
        file.write(np.ascontiguousarray(values).data)


class Shard:
    """Mapped into memory: pages are those of the file, shared by all processes that read it.

    Attributes:
        images: uint8 [N, H, W, C].
        labels, ids: int64 [N].
    """

    def __init__(
        self, path: Path, expected: ShardFile, shape: tuple[int, ...], num_classes: int, held: IO[bytes] | None = None
    ) -> None:
        """Raises UsageError for a file that is missing, cut short, or not what it has to be. `held` is kept open."""
        self._map, self._held = _mapped(path, expected), held
        begin, rows = header(expected.rows, shape), expected.rows
        if self._map[: len(begin)] != begin:
            raise UsageError(f"{path}: its header is not that of {rows} images of {'x'.join(map(str, shape))}; {AGAIN}")
        view, start = memoryview(self._map), len(begin)
        self.ids = torch.frombuffer(view, dtype=torch.int64, count=rows, offset=start)
        self.labels = torch.frombuffer(view, dtype=torch.int64, count=rows, offset=start + 8 * rows)
        pixels = torch.frombuffer(view, dtype=torch.uint8, offset=start + 16 * rows)
        self.images = pixels.view(rows, *shape)
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= num_classes:
            raise UsageError(f"{path}: holds labels outside 0..{num_classes - 1}; {AGAIN}")

    def __len__(self) -> int:
        return len(self.ids)


def check_size(path: Path, expected: ShardFile) -> None:
    """Raises UsageError for a shard that is missing, or not as long as it was made."""
    try:
        size = path.stat().st_size
    except OSError as error:
        why = "missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise UsageError(f"{path}: {why}; {AGAIN}") from error
    if size != expected.bytes:
        what = "cut short" if size < expected.bytes else "too long"
        raise UsageError(f"{path}: {what}, {size} of {expected.bytes} bytes; {AGAIN}")


def _mapped(path: Path, expected: ShardFile) -> mmap.mmap:
    check_size(path, expected)
    try:
        with path.open("rb", buffering=0) as file:
            # Copy on write: torch knows no read-only tensors, and pages that are only read stay those of the file.
            found = mmap.mmap(file.fileno(), expected.bytes, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); {AGAIN}") from error
    _read_ahead(path, found)
    return found


def _read_ahead(path: Path, pages: mmap.mmap) -> None:
    """All of the file at once, as fast as the disk gives it; what cannot be read is known before it is touched."""
    pages.madvise(mmap.MADV_WILLNEED)
    if sys.platform == "linux" and _populate(pages) in (errno.EFAULT, errno.EIO, _HWPOISON):
        raise UsageError(f"{path}: cannot be read to its end; {AGAIN}")


def _populate(pages: mmap.mmap) -> int:
    """The error's number, or 0. By ctypes: Python's own madvise holds up all other threads meanwhile."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    return ctypes.get_errno() if libc.madvise(address, len(pages), POPULATE_READ) else 0
