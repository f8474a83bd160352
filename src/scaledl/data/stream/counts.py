"""How many tokens the texts of a stream have: counted once on a machine, for its next start and its other processes."""

from __future__ import annotations

import fcntl
import hashlib
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scaledl.errors import ScaledlError
from scaledl.run.files import atomic_file

_NAMES = ("sizes", "digest")


def counted_once(folder: Path, key: str, size: int, count_fn: Callable[[], Tensor]) -> Tensor:
    """int32 [size]: what `count_fn` gives, or gave to a process that came before with the same key.

    Others wait for the first. Where the folder cannot be written to, or what lies there is damaged, all count anew.
    """
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()}.npz"
    with _alone(path.with_suffix(".lock")):
        known = _read(path, size)
        if known is None:
            known = count_fn().int()
            with suppress(ScaledlError, OSError):
                _write(path, known)
    return known


def _read(path: Path, size: int) -> Tensor | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            sizes, digest = (file[name] for name in _NAMES)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    whole = sizes.dtype == np.int32 and sizes.shape == (size,) and digest.tobytes() == _digest(sizes.tobytes())
    return torch.from_numpy(sizes) if whole else None


def _write(path: Path, sizes: Tensor) -> None:
    values = sizes.numpy()
    with atomic_file(path, "counts of tokens") as temporary, temporary.open("wb") as file:
        np.savez(file, sizes=values, digest=np.frombuffer(_digest(values.tobytes()), np.uint8))


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError:  # a home that is read-only: each for itself
        yield
        return
    with lock:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
