"""Autoencoder (Hinton & Salakhutdinov 2006): an input is squeezed into a few numbers and put together again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scaledl.config.schema import AutoencoderConfig
from scaledl.models.accepts import check_accepts
from scaledl.models.activations import activation_gain
from scaledl.models.coder import check_coder, decoder, encoder
from scaledl.models.init import initialise_, kaiming_normal_
from scaledl.runtime.signature import Inputs, Outputs


class Autoencoder(nn.Module):
    """[B, *shape] -> [B, *shape]: `decode(encode(x))`. Inputs are normalised, so outputs have no bounds."""

    def __init__(self, config: AutoencoderConfig, inputs: Inputs, numbers: int) -> None:
        super().__init__()
        self.encoder, num_features = encoder(config, inputs)
        self.latent = nn.Linear(num_features, numbers)
        self.decoder, self.head = decoder(config, inputs)
        # layers whose outputs pruning leaves as they are
        self.keeps_outputs = ("latent",) if inputs.kind == "table" else ("latent", "decoder.0")

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    def encode(self, x: Tensor) -> Tensor:
        """[B, *shape] -> [B, latent]."""
        numbers: Tensor = self.latent(torch.flatten(self.encoder(x), 1))
        return numbers

    def decode(self, z: Tensor) -> Tensor:
        """[B, latent] -> [B, *shape]."""
        output: Tensor = self.head(self.decoder(z))
        return output


def build_autoencoder(config: AutoencoderConfig, inputs: Inputs, outputs: Outputs) -> nn.Module:
    """An autoencoder for images, series or rows of numbers. Raises UsageError for other inputs, and for categories."""
    check_accepts("autoencoder", inputs, outputs)
    check_coder(config, inputs)
    model = Autoencoder(config, inputs, config.latent)
    kaiming_normal_(model, activation_gain(config.activation), inputs)
    return initialise_(model, config, inputs)
