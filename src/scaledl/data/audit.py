"""Which labels a trained model doubts."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from scaledl.data.arrays import NO_CLASS
from scaledl.data.loader import BatchLoader


@torch.no_grad()
def probabilities(module: nn.Module, loader: BatchLoader) -> Tensor:
    """float32 [N, K]: what the module, in eval mode, gives each class, in the loader's order."""
    device = next(module.parameters()).device
    return torch.cat([module(batch.x.to(device)).float().softmax(dim=1).cpu() for batch in loader])


def doubted(shares: Tensor, labels: Tensor) -> Iterator[tuple[int, int, float]]:
    """Rows whose label is probably another one: row, that class, and its share of probability.

    A class is believed where its share is at least the mean share that it gets from the samples that carry it
    (confident learning: Northcutt, Jiang and Chuang 2021); the most probable of those believed counts.

    Args:
        shares: float32 [N, K], rows sum to 1.
        labels: int64 [N]; there is nothing to doubt where it is NO_CLASS.
    """
    known = labels != NO_CLASS
    carried = torch.zeros_like(shares).scatter_(1, labels[:, None].clamp(min=0), known[:, None].to(shares.dtype))
    thresholds = (shares * carried).sum(dim=0) / carried.sum(dim=0)  # NaN where no sample carries the class
    believed = torch.where(shares >= thresholds, shares, torch.zeros(()))
    best, classes = believed.max(dim=1)
    for row in torch.nonzero((best > 0) & (classes != labels) & known).squeeze(1).tolist():
        yield row, int(classes[row]), float(best[row])
