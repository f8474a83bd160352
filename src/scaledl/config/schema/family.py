"""What the sections of our own model families have in common."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ..registry import ACTIVATIONS, INITS
from .base import Fraction, Section, list_names, registered

DropoutKind = Literal["standard", "spatial", "alpha"]
ActivationName = Annotated[str, registered(ACTIVATIONS)]
Channels = Annotated[int, Field(ge=1, le=65536)]


def activation_field(default: str) -> Any:
    """The key `activation` of a family."""
    return Field(default=default, description="Between the layers.", json_schema_extra=list_names(ACTIVATIONS))


class ModelSection(Section):
    """What the section of every family has."""

    family: str = Field(description="Kind of model.")
    num_classes: int | None = Field(
        default=None, ge=2, le=1_000_000, description="Checked against the data when given."
    )
    pretrained: str | None = Field(
        default=None,
        min_length=1,
        description="Weights to begin with: of a finished run, a .safetensors (or .pt) file, or with timm, "
        "torchvision, hf those that the library has for model.name.",
    )


class FamilySection(ModelSection):
    """What the sections of our own families have besides."""

    activation: ActivationName = activation_field("relu")
    dropout: Fraction = Field(default=0.0, description="Share of the values of hidden layers set to zero in training.")
    dropout_kind: DropoutKind = Field(
        default="standard",
        description="What is dropped: single values (standard; alpha keeps mean and variance, as selu needs), or whole "
        "channels of maps (spatial).",
    )
    init: Annotated[str, registered(INITS)] = Field(
        default="default", description="Initial weights.", json_schema_extra=list_names(INITS)
    )
