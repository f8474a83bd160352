"""What is hidden of an input: a function of the seed, the epoch and the sample, never of its batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scaledl.data.hashing import hash_key, hash_positions

HIDDEN, REPLACED = 1001, 1002  # coordinates of draws, as in `scaledl.data.hashing`
EVALUATION = -1  # the epoch of what is not trained on: the same is hidden every time


def order_of(ids: Tensor, count: int, *key: int) -> Tensor:
    """int64 [B, count]: the place of each position in an order drawn for each id."""
    return hash_positions(ids, hash_key(*key), count).argsort(1).argsort(1)


def hidden_values(ids: Tensor, shape: torch.Size, patch: int, ratio: float, seed: int, epoch: int) -> Tensor:
    """Which values of inputs [B, *shape] are hidden, bool, in whole patches of all channels.

    Of rows [F] single values are hidden, of series [C, T] runs of `patch` steps, of images [C, H, W] squares of
    `patch` pixels to a side (cut off at the edge): the share `ratio` of them, one at least and never all.
    """
    if len(shape) == 1:
        return _chosen(ids, shape[0], ratio, seed, epoch)
    grid = [-(-side // patch) for side in shape[1:]]
    cells = _chosen(ids, torch.Size(grid).numel(), ratio, seed, epoch).view(len(ids), 1, *grid).float()
    whole = F.interpolate(cells, scale_factor=float(patch), mode="nearest")
    cut = (slice(None), slice(None), *(slice(side) for side in shape[1:]))
    return whole[cut].bool().expand(-1, *shape)


def _chosen(ids: Tensor, count: int, ratio: float, seed: int, epoch: int) -> Tensor:
    most = max(1, count - 1)
    return order_of(ids, count, seed, epoch, HIDDEN) < min(most, max(1, round(ratio * count)))


def hidden_tokens(ids: Tensor, x: Tensor, free: Tensor, ratio: float, seed: int, epoch: int) -> Tensor:
    """Which tokens of x [B, T] are to be predicted, bool: the share `ratio` of those that are `free`, one at least.

    Devlin et al. 2019. A text without a free token has none.
    """
    order = order_of(ids, x.shape[1], seed, epoch, HIDDEN)
    place = order.masked_fill(~free, x.shape[1]).argsort(1).argsort(1)
    count = free.sum(1, keepdim=True)
    return free & (place < (count * ratio).round().clamp(min=1))


def disguise(ids: Tensor, x: Tensor, hidden: Tensor, mask: int, vocabulary: int, seed: int, epoch: int) -> Tensor:
    """Tokens [B, T] as the model sees them: of the hidden ones 80 % are `mask`, 10 % another token, 10 % themselves."""
    bits = hash_positions(ids, hash_key(seed, epoch, REPLACED), x.shape[1])
    tenth, token = (bits >> 32) % 10, 1 + (bits & 0xFFFFFFFF) % max(1, vocabulary - 1)
    shown = torch.where(tenth < 8, torch.full_like(x, mask), torch.where(tenth == 8, token, x))
    return torch.where(hidden, shown, x)
