"""Sections of the families for texts and series."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .family import FamilySection


class RecurrentConfig(FamilySection):
    """What the recurrent families have in common."""

    embedding: int = Field(
        default=128, ge=1, le=65536, description="Width of a text's token embeddings; series are taken as they are."
    )
    hidden: int = Field(default=128, ge=1, le=65536, description="Units of each layer, in each direction.")
    layers: int = Field(default=1, ge=1, le=64, description="Layers on top of each other.")
    bidirectional: bool = Field(default=False, description="Also read from the end, with as many units again.")
    pooling: Literal["last", "mean", "max"] = Field(
        default="last", description="From all steps to one vector: the state after the last, or over all of them."
    )
    dense: int | None = Field(
        default=None,
        ge=1,
        le=65536,
        description="Units of a dense layer with `activation` before the head; null: none.",
    )


class RNNConfig(RecurrentConfig):
    family: Literal["rnn"] = Field(description="Kind of model.")
    nonlinearity: Literal["tanh", "relu"] = Field(default="tanh", description="Of the recurrent units.")


class LSTMConfig(RecurrentConfig):
    family: Literal["lstm"] = Field(description="Kind of model.")


class GRUConfig(RecurrentConfig):
    family: Literal["gru"] = Field(description="Kind of model.")
