"""Sections of the families for texts and series."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..registry import ACTIVATIONS
from .base import Fraction, list_names, registered
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


class TransformerSection(FamilySection):
    """What the transformers for texts and series have in common."""

    activation: Annotated[str, registered(ACTIVATIONS)] = Field(
        default="gelu",
        description="Within the dense layers of each block.",
        json_schema_extra=list_names(ACTIVATIONS),
    )
    width: int = Field(default=128, ge=1, le=65536, description="Values that stand for a step from block to block.")
    layers: int = Field(default=4, ge=1, le=256, description="Blocks on top of each other.")
    heads: int = Field(default=4, ge=1, le=1024, description="Attention heads, among which the width is divided.")
    feedforward: int | None = Field(
        default=None, ge=1, le=262144, description="Hidden units of a block's dense layers; default: 4 times the width."
    )
    dropout: Fraction = Field(default=0.1, description="Share of values dropped after embedding and each half block.")


class TransformerConfig(TransformerSection):
    family: Literal["transformer"] = Field(description="Kind of model.")
    norm: Literal["pre", "post"] = Field(
        default="pre", description="LayerNorm before attention and dense layers, or after their sums, as in the paper."
    )
    positions: Literal["learned", "sinusoidal"] = Field(default="learned", description="What tells steps apart.")
    patch: int = Field(
        default=1, ge=1, le=65536, description="Steps of a series that become one. Divides their number."
    )
    pooling: Literal["mean", "max", "cls"] = Field(
        default="mean", description="From all steps to one vector: over all of them, or a step that is put before them."
    )


class GPTConfig(TransformerSection):
    family: Literal["gpt"] = Field(description="Kind of model.")
    tied: bool = Field(default=True, description="The head's weights are the token embeddings.")
