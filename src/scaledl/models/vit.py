"""Vision transformer (Dosovitskiy et al. 2021): an image as a sequence of patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaledl.config.schema import ViTConfig
from scaledl.errors import UsageError
from scaledl.models.accepts import check_accepts
from scaledl.models.blocks import Block, check_heads, sinusoids
from scaledl.models.dropout import check_no_channels, dropout_layers, path_rates
from scaledl.models.init import initialise_
from scaledl.runtime.signature import Inputs, Outputs


class ViT(nn.Module):
    """Patches -> tokens, with one more that stands for all, if wanted -> positions -> blocks -> norm -> head.

    For maps every token gives a patch of them, as in SETR's simplest decoder (Zheng et al. 2021).
    """

    def __init__(self, config: ViTConfig, inputs: Inputs, num_outputs: int, *, gives_maps: bool) -> None:
        super().__init__()
        side = self.patch_size = config.patch_size
        self.rows, self.gives_maps = inputs.shape[1] // side, gives_maps
        columns = inputs.shape[2] // side
        self.has_cls = config.pooling == "cls" and not gives_maps
        self.embed = nn.Conv2d(inputs.shape[0], config.width, side, stride=side)
        self.positions = _positions(config, self.rows, columns)
        self.cls = nn.Parameter(torch.zeros(1, 1, config.width)) if self.has_cls else None
        self.dropout = nn.Sequential(*dropout_layers(config))
        rates = path_rates(config.drop_path, config.layers)
        self.blocks = nn.Sequential(*(Block(config, rate) for rate in rates))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, num_outputs * (side * side if gives_maps else 1))
        self._init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, num_outputs], or maps [B, num_outputs, H, W]."""
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        if self.positions is not None:
            tokens = tokens + self.positions
        if self.cls is not None:
            tokens = torch.cat([self.cls.expand(tokens.size(0), -1, -1), tokens], 1)
        tokens = self.norm(self.blocks(self.dropout(tokens)))
        if self.gives_maps:
            values = self.head(tokens).transpose(1, 2).unflatten(2, (self.rows, -1))
            return F.pixel_shuffle(values, self.patch_size)
        outputs: Tensor = self.head(tokens[:, 0] if self.has_cls else tokens.mean(1))
        return outputs

    def no_weight_decay(self) -> set[str]:
        """Parameters that are vectors, whatever their shape."""
        return {"cls", "positions"}

    def _init_weights(self) -> None:
        """Normal, cut at two of its spread, biases 0. The spread is 0.02 at the paper's width of 768, at others by the
        root of the width; that of the patches keeps the scale of the pixels (LeCun), however few pixels these are."""
        std = 0.02 * (768 / self.embed.out_channels) ** 0.5
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                _draw_(layer.weight, layer.weight[0].numel() ** -0.5 if layer is self.embed else std)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        for vectors in (self.cls, self.positions):
            if vectors is not None and vectors.requires_grad:
                _draw_(vectors, std)


def _draw_(tensor: Tensor, std: float) -> None:
    nn.init.trunc_normal_(tensor, std=std, a=-2 * std, b=2 * std)


def _positions(config: ViTConfig, rows: int, columns: int) -> nn.Parameter | None:
    """[1, rows * columns, width]; a parameter in any case, since pruning slices parameters alone."""
    if config.positions == "none":
        return None
    if config.positions == "learned":
        return nn.Parameter(torch.zeros(1, rows * columns, config.width))
    of_rows = sinusoids(rows, config.width // 2).repeat_interleave(columns, 0)
    of_columns = sinusoids(columns, config.width - config.width // 2).repeat(rows, 1)
    return nn.Parameter(torch.cat([of_rows, of_columns], 1).unsqueeze(0), requires_grad=False)


def build_vit(config: ViTConfig, inputs: Inputs, outputs: Outputs) -> nn.Module:
    """A ViT for images [B, C, H, W]. Raises UsageError for other inputs, for heads that do not divide the width, and
    for patches that do not divide the image."""
    check_accepts("vit", inputs, outputs)
    check_heads(config)
    check_no_channels(config)
    _check_patches(config, inputs)
    count = inputs.shape[0] if outputs.form == "input" else outputs.count
    return initialise_(ViT(config, inputs, count, gives_maps=outputs.form != "vector"), config, inputs)


def _check_patches(config: ViTConfig, inputs: Inputs) -> None:
    _, height, width = inputs.shape
    if height % config.patch_size or width % config.patch_size:
        allowed = ", ".join(str(n) for n in range(1, min(height, width) + 1) if height % n == 0 and width % n == 0)
        raise UsageError(
            f"model.patch_size: got {config.patch_size}, and images of {height}x{width} cannot be cut into such "
            f"patches; allowed: {allowed}"
        )
