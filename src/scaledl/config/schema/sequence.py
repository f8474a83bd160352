"""Sections of the families for texts and series."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import Fraction, Section
from .compress import CompressConfig
from .conflict import Conflict
from .family import ActivationName, Channels, FamilySection, activation_field

RECURRENT = ("rnn", "lstm", "gru")


class RecurrentConfig(FamilySection):
    """What the recurrent families have in common."""

    embedding: Channels = Field(
        default=128, description="Width of a text's token embeddings; series are taken as they are."
    )
    hidden: Channels = Field(default=128, description="Units of each layer, in each direction.")
    layers: int = Field(default=1, ge=1, le=64, description="Layers on top of each other.")
    bidirectional: bool = Field(default=False, description="Also read from the end, with as many units again.")
    pooling: Literal["last", "mean", "max"] = Field(
        default="last", description="From all steps to one vector: the state after the last, or over all of them."
    )
    dense: Channels | None = Field(
        default=None, description="Units of a dense layer with `activation` before the head; null: none."
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

    activation: ActivationName = activation_field("gelu")
    width: Channels = Field(default=128, description="Values that stand for a step from block to block.")
    layers: int = Field(default=4, ge=1, le=256, description="Blocks on top of each other.")
    heads: int = Field(default=4, ge=1, le=1024, description="Attention heads, among which the width is divided.")
    feedforward: int | None = Field(
        default=None, ge=1, le=262144, description="Hidden units of a block's dense layers; default: 4 times the width."
    )
    dropout: Fraction = Field(
        default=0.1, description="Share of values set to zero in training, of embeddings and of what a block adds."
    )
    drop_path: Fraction = Field(
        default=0.0,
        description="Share of samples that skip a branch of the last block; less in those before, 0 in the first.",
    )


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


def uneven_heads(model: Section) -> list[Conflict]:
    """Where the width of a family with attention cannot be divided among its heads."""
    width, heads = getattr(model, "width", None), getattr(model, "heads", None)
    if width is None or heads is None or width % heads == 0:
        return []
    allowed = f"a divisor of model.width, which is {width}: the heads share it evenly"
    return [Conflict("model.heads", "model.width", str(heads), allowed)]


def learned_ranges(family: str, compress: CompressConfig) -> list[Conflict]:
    """Where recurrent layers, which in int8 find their ranges as they run, are to learn them in a training."""
    methods = [stage.method for stage in compress.stages]
    if family not in RECURRENT or "qat" not in methods or "distill" in methods:
        return []
    key = f"compress.stages.{methods.index('qat')}.method"
    allowed = f"ptq for {family}: its layers find the ranges of int8 as they run, so none can be learned"
    return [Conflict(key, "model.family", "qat", allowed)]
