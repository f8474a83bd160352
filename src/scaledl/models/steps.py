"""What the families for texts and series share: steps, their lengths without padding, and from steps to a vector.

Padding are token ids 0 at the end of a text. A series has none.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scaledl.runtime.signature import Inputs, Outputs


class TextFront(nn.Module):
    """Token ids int64 [B, T] -> embeddings [B, T, width], zeros for padding, and lengths [B, 1]."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width, padding_idx=0)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.embed(ids), text_lengths(ids)


class SeriesFront(nn.Module):
    """A series [B, C, T] -> its steps [B, T, C], and lengths [B, 1]."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        steps = x.transpose(1, 2)
        return steps, numbered(steps[:, :, 0])[:, -1:]


class Pool(nn.Module):
    """From the steps of a sample to one vector, padding left out: [B, T, F] and lengths [B, 1] -> [B, F].

    `last` takes the state that each direction ends with: the first `ahead` features of the last step, and the others,
    which were read backwards, of the first step. `cls` takes the first step, `none` gives all steps as they are.
    """

    def __init__(self, kind: str, ahead: int = 0) -> None:
        super().__init__()
        self.kind = kind
        self.ahead = ahead

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if self.kind == "none":
            return x
        if self.kind == "cls":
            return x[:, 0]
        if self.kind == "last":
            last = rearranged(x, lengths - 1).squeeze(1)
            return torch.cat([last[:, : self.ahead], x[:, 0, self.ahead :]], 1)
        padding = (numbered(x[:, :, 0]) > lengths).unsqueeze(2)
        if self.kind == "mean":
            return x.masked_fill(padding, 0.0).sum(1) / lengths
        return x.masked_fill(padding, float("-inf")).amax(1)


def numbered(steps: Tensor) -> Tensor:
    """1, 2, … for the steps of every row, int64 [..., T]; without a size that a trace would have to know."""
    return torch.ones_like(steps, dtype=torch.int64).cumsum(-1)


def text_lengths(ids: Tensor) -> Tensor:
    """Where the last token stands that is no padding, counted from one; at least 1. int64 [B, T] -> [B, 1]."""
    return (numbered(ids) * (ids != 0)).amax(1, keepdim=True).clamp(min=1)


def rearranged(x: Tensor, index: Tensor) -> Tensor:
    """The steps `index`, int64 [B, N], of each sample: [B, T, F] -> [B, N, F]."""
    return x.gather(1, index.unsqueeze(2).expand(-1, -1, x.size(2)))


def build_front(inputs: Inputs, embedding: int) -> tuple[nn.Module, int]:
    """The front for such inputs, and the width of the steps that it gives."""
    if inputs.kind == "text":
        return TextFront(inputs.vocabulary, embedding), embedding
    return SeriesFront(), inputs.shape[0]


def per_step(inputs: Inputs, outputs: Outputs) -> Outputs:
    """A series that is to come out again is one output of each step for each channel."""
    return Outputs(inputs.shape[0], "steps") if outputs.form == "input" else outputs
