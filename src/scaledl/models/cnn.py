"""A plain convolutional network (LeCun et al. 1998) for images, and for series along their steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scaledl.config.schema import CNNConfig
from scaledl.models.accepts import check_accepts
from scaledl.models.activations import activation_gain, build_activation
from scaledl.models.convolution import AVG_POOL, MAX_POOL, MEAN, convolve
from scaledl.models.dropout import dropout_layers
from scaledl.models.init import initialise_, kaiming_normal_
from scaledl.runtime.signature import Inputs, Outputs


class CNN(nn.Module):
    """Stages of convolution, norm, activation, dropout of channels, pooling; then dense layers and the head."""

    def __init__(self, config: CNNConfig, in_channels: int, size: Sequence[int], num_outputs: int) -> None:
        super().__init__()
        dims = len(size)
        self.stages = nn.Sequential()
        for channels_in, channels_out in itertools.pairwise([in_channels, *config.channels]):
            layers = convolve(channels_in, channels_out, config, dims, kernel_size=config.kernel_size)
            if config.dropout_kind == "spatial":
                layers += dropout_layers(config, dims)
            pooling, size = _pooling(config.pool, size)
            self.stages.append(nn.Sequential(*layers, *pooling))
        if config.features == "mean":
            self.stages.append(MEAN[dims](1))
            size = [1]
        self.hidden, width = _dense(config, config.channels[-1] * math.prod(size))
        self.head = nn.Linear(width, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, *size] -> logits [B, num_outputs]."""
        logits: Tensor = self.head(self.hidden(torch.flatten(self.stages(x), 1)))
        return logits


def _pooling(kind: str, size: Sequence[int]) -> tuple[list[nn.Module], Sequence[int]]:
    """The pooling behind a stage, none where the map has become too small, and the size of the map after it."""
    if kind == "none" or min(size) < 2:
        return [], size
    pool = {"max": MAX_POOL, "avg": AVG_POOL}[kind][len(size)]
    return [pool(2)], [length // 2 for length in size]


def _dense(config: CNNConfig, width: int) -> tuple[nn.Sequential, int]:
    """Dense layers with dropout before each of them and before the head, and how wide the last one is."""
    layers = dropout_layers(config)
    for units in config.hidden:
        layers += [nn.Linear(width, units), build_activation(config.activation), *dropout_layers(config)]
        width = units
    return nn.Sequential(*layers), width


def build_cnn(config: CNNConfig, inputs: Inputs, outputs: Outputs) -> nn.Module:
    """A CNN for images [B, C, H, W] or series [B, C, T]. Raises UsageError for other inputs."""
    check_accepts("cnn", inputs, outputs)
    model = CNN(config, inputs.shape[0], inputs.shape[1:], outputs.count)
    kaiming_normal_(model, activation_gain(config.activation), inputs)
    return initialise_(model, config, inputs)
