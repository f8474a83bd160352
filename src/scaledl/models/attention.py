"""Multi-head self-attention (Vaswani et al. 2017) from plain linear layers, for the families that attend.

Linear layers are what FX quantization converts and what Torch-Pruning slices. `head_dim` and `num_heads` are plain
attributes that pruning brings up to date; `scale` stays what it was built with, so that removed channels of zeros
change nothing. Attention weights have no dropout of their own: `training` would be fixed when FX traces it.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Every step looks at every step: [B, T, width] -> [B, T, width].

    `causal` lets a step look at itself and those before it. Texts that end in padding then need no mask.
    """

    def __init__(self, width: int, num_heads: int, *, causal: bool = False) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"{width} channels cannot be divided among {num_heads} heads")
        self.num_heads = num_heads
        self.head_dim = width // num_heads
        self.scale = self.head_dim**-0.5
        self.causal = causal
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask`, bool [B, T], is true where a step may be looked at; not together with `causal`."""
        seen = mask[:, None, None, :] if mask is not None else None
        attended = F.scaled_dot_product_attention(
            self._heads(self.q(x)),
            self._heads(self.k(x)),
            self._heads(self.v(x)),
            attn_mask=seen,
            is_causal=self.causal,
            scale=self.scale,
        )
        result: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return result

    def _heads(self, x: Tensor) -> Tensor:
        """[B, T, num_heads * head_dim] -> [B, num_heads, T, head_dim]."""
        heads: Tensor = x.unflatten(2, (self.num_heads, self.head_dim))
        return heads.transpose(1, 2)


def head_counts(module: nn.Module) -> dict[nn.Module, int]:
    """Into how many heads the outputs of a layer are divided: of every head the same channels have to go."""
    layers = [layer for layer in module.modules() if isinstance(layer, SelfAttention)]
    return {part: layer.num_heads for layer in layers for part in (layer.q, layer.k, layer.v)}


def refresh_heads_(module: nn.Module) -> None:
    """Bring the size of every head up to date after linear layers were sliced."""
    for layer in module.modules():
        if isinstance(layer, SelfAttention):
            layer.head_dim = layer.q.out_features // layer.num_heads
