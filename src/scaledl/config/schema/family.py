"""What the sections of our own model families have in common."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..registry import ACTIVATIONS, INITS
from .base import Fraction, Section, list_names, registered

DropoutKind = Literal["standard", "spatial", "alpha"]


class FamilySection(Section):
    family: str = Field(description="Kind of model.")
    activation: Annotated[str, registered(ACTIVATIONS)] = Field(
        default="relu", description="Between the layers.", json_schema_extra=list_names(ACTIVATIONS)
    )
    dropout: Fraction = Field(
        default=0.0,
        description="Share of the values of hidden layers set to zero in training (Srivastava et al. 2014).",
    )
    dropout_kind: DropoutKind = Field(
        default="standard",
        description="What is dropped: single values before dense layers (standard; alpha keeps mean and variance, as "
        "selu needs), or whole channels after convolutions (spatial).",
    )
    init: Annotated[str, registered(INITS)] = Field(
        default="default", description="Initial weights.", json_schema_extra=list_names(INITS)
    )
    num_classes: int | None = Field(
        default=None, ge=2, le=1_000_000, description="Checked against the data when given."
    )
