"""One section for each family of models."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Fraction
from .external import ExternalConfig
from .family import Channels, FamilySection
from .sequence import GPTConfig, GRUConfig, LSTMConfig, RNNConfig, TransformerConfig
from .vision import AutoencoderConfig, CNNConfig, UNetConfig, VAEConfig, ViTConfig

DEFAULT_FAMILY = "resnet"


class MLPConfig(FamilySection):
    family: Literal["mlp"] = Field(description="Kind of model.")
    hidden: list[Channels] = Field(default=[128], max_length=64, description="Units of each hidden layer.")
    embedding: int | None = Field(
        default=None,
        ge=1,
        le=65536,
        description="Numbers that a category becomes; default (n + 1) // 2 of n categories, at most 50.",
    )


class ResNetConfig(FamilySection):
    family: Literal["resnet"] = Field(default="resnet", description="Kind of model.")
    depth: Literal[8, 14, 18, 20, 32, 34, 44, 50, 56] = Field(
        default=20, description="8/14/20/32/44/56: CIFAR style (three stages). 18/34/50: ImageNet style (four stages)."
    )
    width: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Channels of the first stage; default 16 (CIFAR style) or 64 (ImageNet).",
    )
    drop_path: Fraction = Field(
        default=0.0, description="Share of samples that skip the last block; less in those before, 0 in the first."
    )


ModelConfig = Annotated[
    MLPConfig
    | ResNetConfig
    | CNNConfig
    | ViTConfig
    | UNetConfig
    | AutoencoderConfig
    | VAEConfig
    | RNNConfig
    | LSTMConfig
    | GRUConfig
    | TransformerConfig
    | GPTConfig
    | ExternalConfig,
    Field(discriminator="family"),
]
