"""Multilayer perceptron on flattened inputs; categories of a table become learned vectors."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from scaledl.config.schema import MLPConfig
from scaledl.models.accepts import check_accepts
from scaledl.models.activations import activation_gain, build_activation
from scaledl.models.columns import Columns
from scaledl.models.dropout import check_no_channels, dropout_layers
from scaledl.models.init import initialise_
from scaledl.runtime.signature import Inputs, Outputs


class MLP(nn.Module):
    """Flatten -> (Linear -> activation -> dropout) for every hidden layer -> Linear."""

    def __init__(self, config: MLPConfig, inputs: Inputs, num_outputs: int) -> None:
        super().__init__()
        columns = Columns(inputs.size, inputs.categories, config.embedding) if inputs.categories else None
        widths = [columns.width if columns else inputs.size, *config.hidden]
        layers: list[nn.Module] = []
        for width_in, width_out in itertools.pairwise(widths):
            layers += [nn.Linear(width_in, width_out), build_activation(config.activation), *dropout_layers(config)]
        self.columns = columns
        self.hidden = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], num_outputs)
        self._init_weights(activation_gain(config.activation))

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> logits [B, num_outputs]."""
        features = torch.flatten(x, 1) if self.columns is None else self.columns(x)
        logits: Tensor = self.head(self.hidden(features))
        return logits

    def _init_weights(self, gain: float) -> None:
        """He et al. 2015 before an activation; the head keeps PyTorch's default."""
        for layer in self.hidden:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=gain / layer.in_features**0.5)
                nn.init.zeros_(layer.bias)


def build_mlp(config: MLPConfig, inputs: Inputs, outputs: Outputs) -> nn.Module:
    """An MLP for inputs [B, ...]; an empty `hidden` is a linear model. Raises UsageError for texts."""
    check_accepts("mlp", inputs, outputs)
    check_no_channels(config)
    return initialise_(MLP(config, inputs, outputs.count), config, inputs)
