"""Sections of the families for images, and for what is put together again: autoencoders of images, series and rows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Fraction
from .family import Channels, FamilySection
from .sequence import TransformerSection

NormKind = Literal["none", "batch", "group", "layer"]
OddSize = Literal[1, 3, 5, 7, 9, 11, 13, 15]
ChannelList = Annotated[list[Channels], Field(min_length=1, max_length=16)]
_NORM = "After each convolution: over the batch, over groups of channels, over all channels (layer), or none."


class CNNConfig(FamilySection):
    family: Literal["cnn"] = Field(description="Kind of model.")
    channels: ChannelList = Field(
        default=[32, 64], description="Channels of each stage, which is a convolution and a pooling."
    )
    kernel_size: OddSize = Field(default=3, description="Pixels or steps that a convolution sees, to a side.")
    pool: Literal["max", "avg", "none"] = Field(default="max", description="Halves the map after each stage.")
    norm: NormKind = Field(default="batch", description=_NORM)
    features: Literal["flatten", "mean"] = Field(
        default="flatten", description="From the last map to a vector: all its values, or the mean of each channel."
    )
    hidden: list[Channels] = Field(
        default=[128], max_length=16, description="Units of each dense layer before the head."
    )


class ViTConfig(TransformerSection):
    family: Literal["vit"] = Field(description="Kind of model.")
    width: Channels = Field(default=192, description="Channels of a token from block to block.")
    layers: int = Field(default=6, ge=1, le=256, description="Blocks on top of each other.")
    heads: int = Field(default=3, ge=1, le=1024, description="Attention heads, among which the width is divided.")
    dropout: Fraction = Field(
        default=0.0, description="Share of values set to zero in training, of tokens and of what a block adds."
    )
    patch_size: int = Field(default=4, ge=1, le=256, description="Pixels to a side; divides height and width.")
    positions: Literal["learned", "sinusoidal", "none"] = Field(
        default="learned", description="What a token is told of its place; sinusoidal: fixed, of row and column."
    )
    pooling: Literal["cls", "mean"] = Field(
        default="cls", description="From tokens to a vector: one that is put before them, or the mean of all."
    )


class UNetConfig(FamilySection):
    family: Literal["unet"] = Field(description="Kind of model.")
    width: int = Field(default=32, ge=1, le=4096, description="Channels at full size; doubled with each halving.")
    depth: int = Field(default=3, ge=1, le=8, description="How often the map is halved, and doubled again.")
    norm: NormKind = Field(default="batch", description=_NORM)


class AutoencoderConfig(FamilySection):
    family: Literal["autoencoder"] = Field(description="Kind of model.")
    latent: int = Field(default=32, ge=1, le=65536, description="Numbers that an input is squeezed into.")
    channels: ChannelList = Field(
        default=[32, 64], description="For images and series: channels of each stage, which halves the map."
    )
    norm: NormKind = Field(default="batch", description=_NORM)
    hidden: list[Channels] = Field(
        default=[128], max_length=64, description="For rows of a table: units of each dense layer of the encoder."
    )


class VAEConfig(AutoencoderConfig):
    family: Literal["vae"] = Field(description="Kind of model.")  # type: ignore[assignment]
