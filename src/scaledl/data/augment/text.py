"""Augmentation of text: token ids int64 [B, T], of which the first `lengths` (int64 [B]) count; the rest is padding.

What happens to a token depends on its sample's id and its place, not on how far the batch is padded. `fixed`,
bool [B, T], names tokens that nothing happens to: those that begin and end a text.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scaledl.data.hashing import (
    TOKEN_DROP,
    TOKEN_MASK,
    TOKEN_SWAP,
    TOKEN_SWAP_PHASE,
    hash_ids,
    hash_key,
    hash_positions,
    uniform,
)


def drop_tokens(
    tokens: Tensor,
    ids: Tensor,
    seed: int,
    epoch: int,
    share: float,
    *,
    lengths: Tensor,
    padding_id: int,
    fixed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Leave each token out with probability `share`, close the gaps; one stays where there was one (Wei and Zou 2019).

    Returns:
        tokens int64 [B, T], with padding behind, and their lengths int64 [B].
    """
    drawn = uniform(hash_positions(ids, hash_key(seed, epoch, TOKEN_DROP), tokens.shape[1]))
    real = _real(tokens, lengths)
    stays = torch.zeros_like(real) if fixed is None else fixed
    drawn = drawn.masked_fill(~real | stays, -1.0)
    survivor = drawn == drawn.amax(1, keepdim=True)  # of two alike both stay
    kept = real & ((drawn >= share) | survivor | stays)
    order = (~kept).long().argsort(dim=1, stable=True)
    lengths = kept.sum(1)
    return tokens.gather(1, order).masked_fill(~_real(tokens, lengths), padding_id), lengths


def swap_tokens(
    tokens: Tensor,
    ids: Tensor,
    seed: int,
    epoch: int,
    share: float,
    *,
    lengths: Tensor,
    fixed: Tensor | None = None,
) -> Tensor:
    """Exchange neighbours: each of the pairs (0, 1), (2, 3), … or (1, 2), (3, 4), … with probability `share`."""
    count = tokens.shape[1]
    [coin] = hash_ids(ids, [hash_key(seed, epoch, TOKEN_SWAP_PHASE)])
    drawn = uniform(hash_positions(ids, hash_key(seed, epoch, TOKEN_SWAP), count))
    places = torch.arange(count, device=tokens.device)
    second = (places + (coin & 1).unsqueeze(1)) % 2 == 1  # whether a place is the later one of its pair
    first = places - second.long()
    inside = (first >= 0) & (first + 1 < lengths.unsqueeze(1))
    first = first.clamp(min=0)
    swapped = inside & (drawn.gather(1, first) < share)
    if fixed is not None:
        swapped &= ~(fixed.gather(1, first) | fixed.gather(1, (first + 1).clamp(max=count - 1)))
    other = torch.where(second, places - 1, places + 1)
    return tokens.gather(1, torch.where(swapped, other, places))


def mask_spans(
    tokens: Tensor,
    ids: Tensor,
    seed: int,
    epoch: int,
    share: float,
    *,
    lengths: Tensor,
    mask_id: int,
    span: int = 3,
    fixed: Tensor | None = None,
) -> Tensor:
    """Overwrite spans of `span` tokens or more with `mask_id`: `share` (below 1) of the tokens on average.

    Spans may overlap and run over either end, so that all places are masked equally often (as SpanBERT, Joshi et al.
    2020, but with a fixed length).
    """
    count = tokens.shape[1]
    start_share = 1 - (1 - share) ** (1 / span)
    drawn = uniform(hash_positions(ids, hash_key(seed, epoch, TOKEN_MASK), count + span - 1))
    starts = (drawn < start_share).long().cumsum(1)
    before = torch.cat([torch.zeros_like(starts[:, :1]), starts], dim=1)
    masked = before[:, span:] > before[:, :count]  # a span began at one of the `span` places up to here
    masked = masked if fixed is None else masked & ~fixed
    return tokens.masked_fill(masked & _real(tokens, lengths), mask_id)


def _real(tokens: Tensor, lengths: Tensor) -> Tensor:
    """Which places are no padding: bool [B, T]."""
    return torch.arange(tokens.shape[1], device=tokens.device) < lengths.unsqueeze(1)
