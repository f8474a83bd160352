"""Memory of large batches, used again.

The system zeroes fresh memory page by page, which takes longer than filling a batch of images does, and the C library
gives blocks of 32 MB and more back as soon as they are free. So the last few stay here. One is taken again only after
every tensor that shared it is gone: whoever keeps a batch keeps its memory.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SMALLEST = 1 << 18  # values; below, the C library reuses memory itself
KEPT = 2  # blocks without a batch; while a model works on one batch, the next is made

_free: deque[NDArray[np.float32]] = deque(maxlen=KEPT)


def empty_batch(shape: Sequence[int], device: torch.device) -> Tensor:
    """float32 of this shape, contiguous, with whatever values are there."""
    count = math.prod(shape)
    if count < SMALLEST or device.type != "cpu":
        return torch.empty(shape, device=device)
    block = _block(count)
    values = block[:count]
    # The tensor's storage holds `values`, which so lives as long as any view of that tensor.
    weakref.finalize(values, _free.append, block).atexit = False
    return torch.from_numpy(values).view(shape)


def _block(count: int) -> NDArray[np.float32]:
    """The first free one that is large enough, and not far too large; others are given back."""
    while True:
        try:
            block = _free.popleft()
        except IndexError:
            return torch.empty(count).numpy()  # torch aligns memory for the widest vectors
        if count <= len(block) <= 2 * count:
            return block
