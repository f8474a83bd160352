"""Memory that this process has freed goes back to the system."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

M_MMAP_THRESHOLD = -3  # malloc.h


def release_free_memory() -> None:
    """glibc keeps freed tensors below 32 MB for later ones, between others that live: after building a model or
    writing a checkpoint that can be several times the model. Takes milliseconds; elsewhere than on glibc nothing."""
    trim = _libc("malloc_trim")
    if trim is not None:
        trim(0)


def return_large_blocks() -> None:
    """From now on give tensors of 1 MB and more back at once, at the price of zeroed pages for each new one."""
    mallopt = _libc("mallopt")
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 20)


@cache
def _libc(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL("libc.so.6"), name)
    except (OSError, AttributeError):
        return None
