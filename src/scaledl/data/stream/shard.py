"""One file of a stream, in the safetensors format, with a header that follows from what is in it."""

from __future__ import annotations

import ctypes
import errno
import json
import math
import mmap
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scaledl.data.arrays import IGNORED, NO_CLASS
from scaledl.data.stored import BYTES, OFFSETS, Field, Form
from scaledl.data.stream.cache import FEWER
from scaledl.data.windows import ANOTHER, places_of
from scaledl.errors import UsageError

POPULATE_READ = 22  # MADV_POPULATE_READ of Linux 5.14: maps all pages; what cannot be read is an error, not a SIGBUS
_HWPOISON = 133
AGAIN = "fix: copy it again from where it was made, or prepare the data again with --force"
TEXTS, NUMBERS = "texts", "numbers"  # of windows: the rows of their texts, and their own numbers in these
_NAMES = {"int64": "I64", "float32": "F32", "int16": "I16", "uint8": "U8"}  # as the format calls them


@dataclass(frozen=True)
class ShardFile:
    """What a shard has to be: its name, rows, bytes, their SHA-256; and how many of the bytes are those of texts."""

    name: str
    rows: int
    bytes: int
    sha256: str
    content: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "content" or value}


def header(form: Form, rows: int, content: int = 0) -> bytes:
    """What a shard of so many samples, with so many bytes of texts, begins with."""
    tensors, begin = {}, 0
    for field in form.fields:
        shape = form.shape(field, rows, content)
        end = begin + field.dtype.itemsize * math.prod(shape)
        tensors[field.name] = {"dtype": _NAMES[field.dtype.name], "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(tensors, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def shard_bytes(form: Form, rows: int, content: int = 0) -> int:
    """Of the whole file."""
    values = sum(field.dtype.itemsize * math.prod(form.shape(field, rows, content)) for field in form.fields)
    return len(header(form, rows, content)) + values


def write_shard(file: IO[bytes], form: Form, values: Mapping[str, NDArray[Any]]) -> None:
    """`values`: of each field, [N, ...]."""
    rows, content = len(values["ids"]), len(values.get(BYTES, ()))
    file.write(header(form, rows, content))
    for field in form.fields:
        array = np.ascontiguousarray(values[field.name])
        expected = form.shape(field, rows, content)
        assert (array.dtype, array.shape) == (field.dtype, expected), f"{field} {array.dtype} {array.shape}"
        file.write(array.data)


class Shard:
    """Mapped into memory: pages are those of the file, shared by all processes that read it.

    Attributes:
        parts: of each field its values, [N, ...].
    """

    def __init__(self, path: Path, expected: ShardFile, form: Form, held: IO[bytes] | None = None) -> None:
        """`held`: the file, open, and what keeps it there; it is closed, and the map holds on to both.

        Raises UsageError for a file that is missing, cut short, or not what it has to be.
        """
        self._path, self._map = path, _mapped(path, expected, held)
        begin, rows = header(form, expected.rows, expected.content), expected.rows
        if self._map[: len(begin)] != begin:
            what = " and ".join(_shown(field) for field in form.fields if field.name not in ("ids", "labels"))
            raise UsageError(f"{path}: its header is not that of {rows} samples with {what}; {AGAIN}")
        view, place = memoryview(self._map), len(begin)
        self.parts: dict[str, Tensor] = {}
        for field in form.fields:
            shape = form.shape(field, rows, expected.content)
            values = np.frombuffer(view, field.dtype, math.prod(shape), place).reshape(shape)
            self.parts[field.name] = torch.from_numpy(values)
            place += values.nbytes
        self._check_labels(form)
        if form.has_texts:
            self._check_offsets(expected.content)

    def __len__(self) -> int:
        return len(self.parts["ids"])

    def texts(self, rows: Tensor) -> list[str]:
        """Of rows int64 [K]. Raises UsageError where one is damaged."""
        content, offsets = self.parts[BYTES].numpy(), self.parts[OFFSETS]
        places = zip(offsets[rows].tolist(), offsets[rows + 1].tolist(), strict=True)
        try:
            return [content[begin:end].tobytes().decode() for begin, end in places]
        except UnicodeDecodeError as error:
            raise UsageError(f"{self._path}: holds a text that is no UTF-8; {AGAIN}") from error

    def cut_up_(self, counts: Tensor) -> None:
        """Its samples become windows of its texts, so many of each, int [N]; with its label, and an id of their own."""
        texts, numbers = places_of(counts)
        ids, labels = (self.parts[part][texts] for part in ("ids", "labels"))
        self.parts |= {"ids": ids + ANOTHER * numbers, "labels": labels, TEXTS: texts, NUMBERS: numbers}

    def _check_labels(self, form: Form) -> None:
        labels = self.parts["labels"]
        if labels.is_floating_point() or form.target == "none" or not labels.numel():
            return
        least, most = (int(value) for value in labels.aminmax())
        lowest = (NO_CLASS if form.unlabeled else 0) if form.target == "class" else IGNORED
        if most >= form.num_classes or least < lowest:
            raise UsageError(f"{self._path}: holds labels outside 0..{form.num_classes - 1}; {AGAIN}")

    def _check_offsets(self, content: int) -> None:
        offsets = self.parts[OFFSETS]
        if int(offsets[0]) != 0 or int(offsets[-1]) != content or bool((offsets.diff() < 0).any()):
            raise UsageError(f"{self._path}: its texts do not lie where it says; {AGAIN}")


def _shown(field: Field) -> str:
    return f"{field.name} of {'x'.join(map(str, field.shape))}" if field.shape else field.name


def check_size(path: Path, expected: ShardFile) -> None:
    """Raises UsageError for a shard that is missing, or not as long as it was made."""
    try:
        _check(path, path.stat().st_size, expected)
    except OSError as error:
        raise UsageError(_unreadable(path, error)) from error


def _check(path: Path, size: int, expected: ShardFile) -> None:
    if size != expected.bytes:
        what = "cut short" if size < expected.bytes else "too long"
        raise UsageError(f"{path}: {what}, {size} of {expected.bytes} bytes; {AGAIN}")


def _mapped(path: Path, expected: ShardFile, held: IO[bytes] | None) -> mmap.mmap:
    """By one descriptor: that of the map is a copy of `held`'s, and a lock goes when the last copy does."""
    try:
        with held or path.open("rb", buffering=0) as file:
            _check(path, os.fstat(file.fileno()).st_size, expected)
            # Copy on write: torch knows no read-only tensors, and pages that are only read stay those of the file.
            found = mmap.mmap(file.fileno(), expected.bytes, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise UsageError(_unreadable(path, error)) from error
    _read_ahead(path, found)
    return found


def _unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path}: missing; {AGAIN}"
    fix = f"fix: {FEWER}" if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE) else AGAIN
    return f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); {fix}"


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
