"""U-Net (Ronneberger et al. 2015): from images to maps of the same size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaledl.config.schema import UNetConfig
from scaledl.errors import UsageError
from scaledl.models.accepts import check_accepts
from scaledl.models.activations import activation_gain
from scaledl.models.convolution import Resize, convolve
from scaledl.models.dropout import dropout_layers
from scaledl.models.init import initialise_, kaiming_normal_
from scaledl.runtime.signature import Inputs, Outputs


def _two(in_channels: int, out_channels: int, config: UNetConfig) -> nn.Sequential:
    """Two 3x3 convolutions, then dropout: [B, in_channels, H, W] -> [B, out_channels, H, W]."""
    first, second = convolve(in_channels, out_channels, config, 2), convolve(out_channels, out_channels, config, 2)
    return nn.Sequential(*first, *second, *dropout_layers(config, 2))


class Level(nn.Module):
    """A resolution: convolutions, what is below at half the size, and convolutions over both.

    [B, in_channels, *size] -> [B, channels, *size], where `below` makes 2 * channels of channels.
    """

    def __init__(
        self, in_channels: int, channels: int, size: Sequence[int], below: nn.Module, config: UNetConfig
    ) -> None:
        super().__init__()
        self.down = _two(in_channels, channels, config)
        self.pool = nn.MaxPool2d(2)
        self.below = below
        self.grow = nn.Sequential(Resize(size), *convolve(2 * channels, channels, config, 2))
        self.up = _two(2 * channels, channels, config)

    def forward(self, x: Tensor) -> Tensor:
        across = self.down(x)
        result: Tensor = self.up(torch.cat([across, self.grow(self.below(self.pool(across)))], 1))
        return result


class UNet(nn.Module):
    """Levels within each other, and a 1x1 convolution at the end. Images are padded with zeros to a size that can be
    halved as often as `depth` says, and the maps cut back."""

    def __init__(self, config: UNetConfig, inputs: Inputs, num_outputs: int) -> None:
        super().__init__()
        in_channels, self.height, self.width = inputs.shape
        self.pad_height, self.pad_width = (-side % 2**config.depth for side in (self.height, self.width))
        widths = [config.width << level for level in range(config.depth + 1)]
        body: nn.Module = _two(widths[-2], widths[-1], config)
        for level in reversed(range(config.depth)):
            size = [(self.height + self.pad_height) >> level, (self.width + self.pad_width) >> level]
            body = Level(widths[level - 1] if level else in_channels, widths[level], size, body, config)
        self.body = body
        self.head = nn.Conv2d(config.width, num_outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, num_outputs, H, W]."""
        if self.pad_height + self.pad_width > 0:
            x = F.pad(x, [0, self.pad_width, 0, self.pad_height])
        maps: Tensor = self.head(self.body(x))
        if self.pad_height + self.pad_width > 0:
            maps = maps[:, :, : self.height, : self.width]
        return maps


def build_unet(config: UNetConfig, inputs: Inputs, outputs: Outputs) -> nn.Module:
    """A U-Net for images [B, C, H, W] of any size. Raises UsageError for other inputs, and for a depth that they are
    too small for."""
    check_accepts("unet", inputs, outputs)
    deepest = max(1, math.floor(math.log2(max(inputs.shape[1:]))))
    if config.depth > deepest:
        raise UsageError(
            f"model.depth: got {config.depth}, and images of {inputs.shape[1]}x{inputs.shape[2]} can be halved "
            f"{deepest} times; allowed: 1 to {deepest}"
        )
    model = UNet(config, inputs, inputs.shape[0] if outputs.form == "input" else outputs.count)
    kaiming_normal_(model, activation_gain(config.activation), inputs)
    return initialise_(model, config, inputs)
