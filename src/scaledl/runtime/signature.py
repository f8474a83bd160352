"""What goes into a model and what comes out: all that a family has to know of data and task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["image", "table", "series", "text"]
Form = Literal["vector", "steps", "pixels", "input"]

KINDS: dict[int, Kind] = {1: "table", 2: "series", 3: "image"}  # by the dimensions of one input that is no text
_DIMENSIONS = {"image": 3, "table": 1, "series": 2, "text": 1}


@dataclass(frozen=True)
class Inputs:
    """One input of a model.

    Attributes:
        kind: image, table, series or text.
        shape: (C, H, W) of an image, (F,) of a row, (C, T) of a series, all float32; (T,) of a text, int64 token ids,
            where 0 is padding.
        vocabulary: of text, how many token ids there are.
        categories: of a table, for each of its last columns how many values it has: they hold 0 (unknown), 1, 2, …
            and are neither standardised nor spread over columns. The columns before them are numbers.
        moved: of text, the id of the token that was 0 in a tokenizer which pads with another id or not at all: ours
            pads with 0, so the two changed places. 0 where none did.
    """

    kind: Kind
    shape: tuple[int, ...]
    vocabulary: int = 0
    categories: tuple[int, ...] = ()
    moved: int = 0

    def __post_init__(self) -> None:
        if len(self.shape) != _DIMENSIONS[self.kind] or min(self.shape) < 1:
            raise ValueError(f"{self.kind} inputs cannot have the shape {list(self.shape)}")
        if (self.kind == "text") != (self.vocabulary > 0):
            raise ValueError(f"{self.kind} inputs cannot have a vocabulary of {self.vocabulary}")
        if not 0 <= self.moved < max(1, self.vocabulary):
            raise ValueError(f"a vocabulary of {self.vocabulary} has no token {self.moved}")
        if len(self.categories) > (self.shape[0] if self.kind == "table" else 0):
            raise ValueError(f"{self.kind} inputs of {list(self.shape)} cannot have {len(self.categories)} categories")

    @classmethod
    def of(cls, shape: Sequence[int]) -> Inputs:
        """A plain shape is that of a row, a series or an image, by its dimensions."""
        return cls(KINDS[len(shape)], tuple(shape))

    def example(self, batch_size: int, seed: int = 0) -> Tensor:
        """Made-up inputs as a model takes them, [batch_size, *shape]; the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        if self.kind == "text":
            return torch.randint(1, max(2, self.vocabulary), (batch_size, *self.shape), generator=generator)
        values = torch.randn(batch_size, *self.shape, generator=generator)
        for column, count in enumerate(self.categories, self.shape[0] - len(self.categories)):
            values[:, column] = torch.randint(0, count, (batch_size,), generator=generator).float()
        return values

    @property
    def size(self) -> int:
        """Values of one input."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Outputs:
    """What a model gives for one input.

    Attributes:
        count: classes, numbers or token ids.
        form: vector: [B, count]; steps: [B, count, T], for each step of a text or series; pixels: [B, count, H, W];
            input: the input again, [B, *shape], whatever `count` is.
    """

    count: int
    form: Form = "vector"

    def shape(self, inputs: Inputs) -> tuple[int, ...]:
        """Of the outputs for one input."""
        if self.form == "input":
            return inputs.shape
        following = {"vector": (), "steps": inputs.shape[-1:], "pixels": inputs.shape[1:]}[self.form]
        return (self.count, *following)
