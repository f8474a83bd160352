"""What the outputs of a model mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from scaledl.runtime.signature import Form

OutputKind = Literal[
    "class",
    "classes",
    "numbers",
    "tags",
    "transcript",
    "mask",
    "tokens",
    "input",
    "intensities",
    "embedding",
    "mixed",
]
"""class: a logit for each class. classes: for each label, of which any may be there. numbers: standardised numbers.
tags, mask: a logit for each class, at each step or pixel. transcript: as tags, the last class is a blank. tokens: for
each id of the vocabulary, at each step. input: the input again, normalised. intensities: a logit for each value of
0..1. embedding: a vector that only means something beside others. mixed: of several heads, one behind the other."""
DECIDED = frozenset({"class", "tags", "transcript", "mask", "tokens"})  # by the largest output


@dataclass(frozen=True)
class Part:
    """One of several heads: `width` outputs, class (a logit for each), labels (likewise), or standardised numbers.

    `labels`: names of the outputs, where they have such.
    """

    name: str
    kind: str
    width: int
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class OutputSpec:
    """What a model gives for one input.

    Attributes:
        kind: what the outputs mean.
        form: how they lie, see `Outputs`.
        shape: of the outputs for one input.
        mean, std: of numbers, by which they were standardised in training (0 and 1 of what is no number); else empty.
        threshold: of labels, the probability from which one counts as there.
        parts: of heads, in the order of their outputs; else empty.
    """

    kind: OutputKind
    form: Form
    shape: tuple[int, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    threshold: float = 0.5
    parts: tuple[Part, ...] = ()

    def restore(self, outputs: Tensor) -> Tensor:
        """Numbers [N, K] in the units of the data; other outputs as they are."""
        if not self.mean:
            return outputs
        mean, std = (torch.tensor(value, dtype=torch.float32) for value in (self.mean, self.std))
        return outputs * std + mean

    def decide(self, outputs: Tensor) -> Tensor | None:
        """The class [N, ...] of outputs [N, K, ...], or which labels are there, bool [N, K]; None of other kinds."""
        if self.kind in DECIDED:
            return outputs.argmax(1)
        if self.kind == "classes":
            return outputs >= math.log(self.threshold / (1 - self.threshold))
        return None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return {
            "kind": self.kind,
            "form": self.form,
            "dtype": "float32",
            "shape": list(self.shape),
            "mean": list(self.mean),
            "std": list(self.std),
            "threshold": self.threshold,
            **({"parts": [{**vars(part), "labels": list(part.labels)} for part in self.parts]} if self.parts else {}),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> OutputSpec:
        """The reverse of `to_dict`. Raises KeyError, TypeError or ValueError when it is damaged."""
        mean, std = (tuple(float(number) for number in value[key]) for key in ("mean", "std"))
        shape = tuple(int(size) for size in value["shape"])
        parts = tuple(map(_part, value.get("parts", ())))
        made = cls(value["kind"], value["form"], shape, mean, std, float(value["threshold"]), parts)
        fits = made.kind in get_args(OutputKind) and made.form in get_args(Form) and shape and min(shape) >= 1
        scaled = (not mean and not std) or (len(mean) == len(std) == shape[0] and min(std) > 0)
        whole = not parts or sum(part.width for part in parts) == shape[0]
        if not fits or not scaled or not whole or not all(map(math.isfinite, mean + std)) or not 0 < made.threshold < 1:
            raise ValueError(f"output {dict(value)}")
        return made


def _part(value: Mapping[str, Any]) -> Part:
    made = Part(str(value["name"]), str(value["kind"]), int(value["width"]), tuple(map(str, value.get("labels", ()))))
    if made.labels and len(made.labels) != made.width:
        raise ValueError(f"part {dict(value)}")
    return made
