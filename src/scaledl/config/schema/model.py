"""One section for each family of models."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Section

DEFAULT_FAMILY = "resnet"


class MLPConfig(Section):
    family: Literal["mlp"] = Field(description="Kind of model.")
    hidden: list[Annotated[int, Field(ge=1, le=65536)]] = Field(
        default=[128], max_length=64, description="Units of each hidden layer."
    )
    num_classes: int | None = Field(
        default=None, ge=2, le=1_000_000, description="Checked against the data when given."
    )


class ResNetConfig(Section):
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
    num_classes: int | None = Field(
        default=None, ge=2, le=1_000_000, description="Checked against the data when given."
    )


ModelConfig = Annotated[MLPConfig | ResNetConfig, Field(discriminator="family")]
