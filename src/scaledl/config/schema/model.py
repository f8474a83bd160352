"""One section for each family of models."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .family import FamilySection
from .sequence import GRUConfig, LSTMConfig, RNNConfig

DEFAULT_FAMILY = "resnet"


class MLPConfig(FamilySection):
    family: Literal["mlp"] = Field(description="Kind of model.")
    hidden: list[Annotated[int, Field(ge=1, le=65536)]] = Field(
        default=[128], max_length=64, description="Units of each hidden layer."
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


ModelConfig = Annotated[MLPConfig | ResNetConfig | RNNConfig | LSTMConfig | GRUConfig, Field(discriminator="family")]
