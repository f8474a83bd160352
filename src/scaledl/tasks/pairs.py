"""Losses of pairs: two views of each sample are to be nearer than those of different samples."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scaledl.config.schema import TaskConfig


def nt_xent(first: Tensor, second: Tensor, config: TaskConfig, weight: Tensor | None = None) -> Tensor:
    """Normalised temperature-scaled cross entropy (Chen et al. 2020, equation 1): both views [B, D] -> [B].

    Each of the 2 B views has to find its other view among the 2 B - 1 others, by cosine; the mean of both directions.
    """
    del weight
    both = F.normalize(torch.cat([first, second]).float(), dim=1)
    similar = (both @ both.T / config.temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(similar, partners(len(first), both.device), reduction="none").view(2, -1).mean(0)


def triplet(first: Tensor, second: Tensor, config: TaskConfig, weight: Tensor | None = None) -> Tensor:
    """Batch-hard triplets (Hermans et al. 2017): both views [B, D], scaled to length 1 -> [B].

    The other view of a sample has to be nearer to the first than the nearest view of any other sample, by `margin`.
    """
    del weight
    one, other = F.normalize(first.float(), dim=1), F.normalize(second.float(), dim=1)
    distance = torch.cdist(one, other)
    farther = distance + torch.full_like(distance, torch.inf).diag().diag()
    values: Tensor = F.relu(distance.diag() - farther.amin(1) + config.margin)
    return values


def partners(count: int, device: torch.device) -> Tensor:
    """Where each of 2 B views finds its other one, int64 [2 B]."""
    return (torch.arange(2 * count, device=device) + count) % (2 * count)


def found_partners(first: Tensor, second: Tensor) -> Tensor:
    """Whose nearest other view, by cosine, is their own: bool [2 B]."""
    both = F.normalize(torch.cat([first, second]).float(), dim=1)
    nearest = (both @ both.T).fill_diagonal_(-torch.inf).argmax(1)
    return nearest == partners(len(first), both.device)
