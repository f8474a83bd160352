"""Dropout of single values, of whole channels, and of whole residual branches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scaledl.config.schema import FamilySection
from scaledl.errors import UsageError
from scaledl.models.leaf import Leaf


def dropout_layers(config: FamilySection, dims: int = 0) -> list[nn.Module]:
    """The dropout that `config` asks for, or nothing. `dims`: 0 for rows, 1 for series, 2 for images.

    standard: Srivastava et al. 2014; alpha: Klambauer et al. 2017; spatial, whole channels, which rows have none of:
    Tompson et al. 2015.
    """
    if not config.dropout or (config.dropout_kind == "spatial" and not dims):
        return []
    kinds = {"standard": nn.Dropout, "alpha": nn.AlphaDropout, "spatial": nn.Dropout2d if dims == 2 else nn.Dropout1d}
    return [kinds[config.dropout_kind](config.dropout)]


def check_no_channels(config: FamilySection) -> None:
    """Raise UsageError when a family that has no maps is to drop whole channels of them."""
    if config.dropout_kind == "spatial":
        raise UsageError(
            f"model.dropout_kind: got 'spatial', and {config.family} has no convolutions whose channels could be "
            "dropped; allowed: standard, alpha"
        )


class DropPath(Leaf):
    """Sets all of a sample to zero with the probability `rate` in training; the others grow to make up for it.

    On the branch of a residual block: stochastic depth (Huang et al. 2016). [B, ...] -> [B, ...].
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = 1.0 - self.rate
        stays = torch.empty([x.shape[0]] + [1] * (x.dim() - 1), dtype=x.dtype, device=x.device).bernoulli_(keep)
        return x * stays / keep


def path_rates(rate: float, depth: int) -> list[float]:
    """Rates of the blocks from first to last: from 0, growing evenly, to `rate` (Huang et al. 2016).

    >>> path_rates(0.3, 4)
    [0.0, 0.1, 0.2, 0.3]
    """
    return [round(rate * number / max(1, depth - 1), 12) for number in range(depth)]


def drop_path(rate: float) -> DropPath | None:
    """None where nothing is dropped, so that a block without it is the same as ever."""
    return DropPath(rate) if rate else None
