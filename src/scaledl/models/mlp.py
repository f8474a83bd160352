"""Multilayer perceptron on flattened inputs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scaledl.config.schema import MLPConfig
from scaledl.runtime.signature import Inputs, Outputs


class MLP(nn.Module):
    """Flatten -> (Linear -> ReLU) for every hidden layer -> Linear."""

    def __init__(self, in_features: int, hidden: Sequence[int], num_classes: int) -> None:
        super().__init__()
        widths = [in_features, *hidden]
        layers: list[nn.Module] = []
        for width_in, width_out in itertools.pairwise(widths):
            layers += [nn.Linear(width_in, width_out), nn.ReLU()]
        self.hidden = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], num_classes)
        self._init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> logits [B, num_classes]."""
        logits: Tensor = self.head(self.hidden(torch.flatten(x, 1)))
        return logits

    def _init_weights(self) -> None:
        """He et al. 2015 before a ReLU; the head keeps PyTorch's default."""
        for layer in self.hidden:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)


def build_mlp(config: MLPConfig, inputs: Inputs, outputs: Outputs) -> nn.Module:
    """An MLP for inputs [B, ...]; an empty `hidden` is a linear model."""
    return MLP(inputs.size, config.hidden, outputs.count)
