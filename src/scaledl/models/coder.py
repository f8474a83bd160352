"""Encoders to a few numbers and decoders back: what the autoencoder and the variational one are made of.

For images and series: convolutions that halve the map, a dense layer at either side of the few numbers, and maps that
are doubled and convolved again. Rows of a table go through dense layers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import nn

from scaledl.config.schema import AutoencoderConfig
from scaledl.errors import UsageError
from scaledl.models.activations import build_activation
from scaledl.models.convolution import CONV, Reshape, Resize, convolve, normed
from scaledl.models.dropout import check_no_channels, dropout_layers
from scaledl.runtime.signature import Inputs


def encoder(config: AutoencoderConfig, inputs: Inputs) -> tuple[nn.Sequential, int]:
    """[B, *shape] -> features [B, *], and how many there are when flattened."""
    if inputs.kind == "table":
        widths = [inputs.size, *config.hidden]
        return _dense(widths, config), widths[-1]
    dims, body = len(inputs.shape) - 1, nn.Sequential()
    for channels_in, channels_out in itertools.pairwise([inputs.shape[0], *config.channels]):
        conv = CONV[dims](channels_in, channels_out, 3, stride=2, padding=1, bias=config.norm == "none")
        body.extend([conv, *normed(channels_out, config, dims), *dropout_layers(config, dims)])
    return body, config.channels[-1] * math.prod(_sizes(config, inputs)[-1])


def decoder(config: AutoencoderConfig, inputs: Inputs) -> tuple[nn.Sequential, nn.Module]:
    """Hidden layers, and the one to the input: [B, latent] -> [B, *shape]. The first of a map is the dense one that
    makes it; its outputs have places as well as channels."""
    if inputs.kind == "table":
        widths = [config.latent, *reversed(config.hidden)]
        return _dense(widths, config), nn.Linear(widths[-1], inputs.size)
    dims, (size, *sizes) = len(inputs.shape) - 1, reversed(_sizes(config, inputs))
    start = [config.channels[-1], *size]
    body = _dense([config.latent, math.prod(start)], config).append(Reshape(start))
    for (channels_in, channels_out), size in zip(itertools.pairwise(reversed(config.channels)), sizes, strict=False):
        body.append(Resize(size))
        body.extend([*convolve(channels_in, channels_out, config, dims), *dropout_layers(config, dims)])
    body.append(Resize(inputs.shape[1:]))
    return body, CONV[dims](config.channels[0], inputs.shape[0], 3, padding=1)


def check_coder(config: AutoencoderConfig, inputs: Inputs) -> None:
    """Raise UsageError for what no coder can be made of."""
    if inputs.categories:
        raise UsageError(
            f"model.family: got {config.family}, and {len(inputs.categories)} columns of the data hold categories, "
            "which it cannot put together again; allowed: tables of numbers; fix: data.categories=one_hot"
        )
    if inputs.kind == "table":
        check_no_channels(config)


def _sizes(config: AutoencoderConfig, inputs: Inputs) -> list[Sequence[int]]:
    """Of the map before the first stage, after it, and so on: each halves it, rounding up."""
    sizes: list[Sequence[int]] = [inputs.shape[1:]]
    for _ in config.channels:
        sizes.append([math.ceil(side / 2) for side in sizes[-1]])
    return sizes


def _dense(widths: Sequence[int], config: AutoencoderConfig) -> nn.Sequential:
    body = nn.Sequential()
    for width_in, width_out in itertools.pairwise(widths):
        body.extend([nn.Linear(width_in, width_out), build_activation(config.activation), *dropout_layers(config)])
    return body
