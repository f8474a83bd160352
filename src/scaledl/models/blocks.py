"""The block that transformers are stacks of, and what stands before the first one."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaledl.config.schema import TransformerSection
from scaledl.errors import UsageError
from scaledl.models.activations import build_activation
from scaledl.models.attention import SelfAttention
from scaledl.models.dropout import drop_path, dropout_layers
from scaledl.models.steps import numbered


class Block(nn.Module):
    """Self-attention, then a dense layer for each step, both added to what came in: [B, T, width] -> [B, T, width].

    LayerNorm stands before each of the two (Xiong et al. 2020), or after the sums (Vaswani et al. 2017).
    """

    def __init__(
        self, config: TransformerSection, path_rate: float, *, pre_norm: bool = True, causal: bool = False
    ) -> None:
        super().__init__()
        width, inner = config.width, config.feedforward or 4 * config.width
        self.pre_norm = pre_norm
        self.norm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, config.heads, causal=causal)
        self.branch1 = _branch(config, path_rate)
        self.norm2 = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, inner), build_activation(config.activation, dim=-1), nn.Linear(inner, width)
        )
        self.branch2 = _branch(config, path_rate)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask`, bool [B, T], is true for the steps that may be looked at."""
        if self.pre_norm:
            x = x + self.branch1(self.attention(self.norm1(x), mask))
            x = x + self.branch2(self.feed(self.norm2(x)))
        else:
            x = self.norm1(x + self.branch1(self.attention(x, mask)))
            x = self.norm2(x + self.branch2(self.feed(x)))
        return x


def _branch(config: TransformerSection, path_rate: float) -> nn.Module:
    """What befalls a branch in training, before it is added."""
    path = drop_path(path_rate)
    return nn.Sequential(*dropout_layers(config), *([path] if path else []))


class Positions(nn.Module):
    """Adds to each step what says where it stands: learned vectors, or sines of many wavelengths."""

    def __init__(self, kind: str, length: int, width: int) -> None:
        super().__init__()
        if kind == "learned":
            self.table = nn.Parameter(0.02 * torch.randn(length, width))
        else:
            self.register_buffer("table", sinusoids(length, width), persistent=False)

    def no_weight_decay(self) -> set[str]:
        """Parameters that are vectors, whatever their shape."""
        return {"table"}

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width], T at most the length -> the same."""
        return x + F.embedding(numbered(x[0, :, 0]) - 1, self.table)


def sinusoids(length: int, width: int) -> Tensor:
    """sin and cos of t / 10000^(2i / width) in turn (Vaswani et al. 2017), [length, width]."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.arange(length).unsqueeze(1) * rates
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :width]


def check_heads(config: TransformerSection) -> None:
    """Raise UsageError when the width cannot be divided among the heads."""
    if config.width % config.heads:
        allowed = ", ".join(str(n) for n in range(1, min(config.width, 64) + 1) if config.width % n == 0)
        raise UsageError(
            f"model.heads: got {config.heads}; allowed with model.width {config.width}, which is divided among them: "
            f"{allowed}"
        )
