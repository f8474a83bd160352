"""IDX files (the format of MNIST and its relatives), read with every length checked before it is believed."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from io import BufferedReader
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scaledl.errors import UsageError

UINT8 = 0x08
MAX_BYTES = 1 << 30  # of pixels or labels in one file


def find_idx(folder: Path, name: str) -> Path | None:
    """`name` or `name.gz` in the folder, whichever exists, or None."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_idx(path: Path, ndim: int, sha256: str | None = None) -> Tensor:
    """Read a plain or gzipped (.gz) IDX file of unsigned bytes.

    Args:
        path: the file.
        ndim: dimensions that the file must have.
        sha256: of the decompressed file; checked when given.

    Returns:
        uint8, with the sizes that the header states.

    Raises:
        UsageError: unreadable, another type or number of dimensions, shorter or longer than its header says,
            or another hash than `sha256`.
    """
    try:
        with _open(path) as file:
            header, shape = _read_header(file, path, ndim)
            size = math.prod(shape)
            body = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _problem(path, f"cannot be read ({error})") from error
    if len(body) != size:
        raise _problem(path, f"holds {'more' if len(body) > size else 'less'} than the {size} bytes its header states")
    _check_hash(path, header, body, sha256)
    return torch.from_numpy(np.frombuffer(bytearray(body), dtype=np.uint8)).view(shape)


def _open(path: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _read_header(file: gzip.GzipFile | BufferedReader, path: Path, ndim: int) -> tuple[bytes, tuple[int, ...]]:
    """Magic number (two zero bytes, type, dimensions), then one big-endian uint32 for each dimension."""
    header = file.read(4 + 4 * ndim)
    if header[:4] != bytes((0, 0, UINT8, ndim)):
        wanted = bytes((0, 0, UINT8, ndim)).hex()
        raise _problem(
            path, f"starts with {header[:4].hex() or 'nothing'}, not {wanted} (IDX, bytes, {ndim} dimensions)"
        )
    if len(header) < 4 + 4 * ndim:
        raise _problem(path, "ends inside its header")
    shape = tuple(int.from_bytes(header[i : i + 4], "big") for i in range(4, len(header), 4))
    if not 0 < math.prod(shape) <= MAX_BYTES:
        raise _problem(path, f"states sizes {shape}; 1 to {MAX_BYTES} bytes are read")
    return header, shape


def _check_hash(path: Path, header: bytes, body: bytes, sha256: str | None) -> None:
    if sha256 is None:
        return
    digest = hashlib.sha256(header)
    digest.update(body)
    if digest.hexdigest() != sha256:
        raise _problem(path, f"has SHA-256 {digest.hexdigest()} (decompressed), expected {sha256}")


def _problem(path: Path, what: str) -> UsageError:
    return UsageError(f"{path}: {what}; fix: delete the file and fetch it again")
