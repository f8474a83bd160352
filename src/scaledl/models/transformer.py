"""Transformer encoder (Vaswani et al. 2017) for texts and series."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scaledl.config.schema import TransformerConfig
from scaledl.errors import UsageError
from scaledl.models.accepts import check_accepts
from scaledl.models.blocks import Block, Positions, check_heads
from scaledl.models.dropout import check_no_channels, dropout_layers, path_rates
from scaledl.models.init import initialise_
from scaledl.models.steps import Pool, TextFront, numbered, per_step
from scaledl.runtime.signature import Inputs, Outputs


class PatchFront(nn.Module):
    """A series cut into patches of some steps (Nie et al. 2023): [B, C, T] -> [B, T / patch, width], lengths [B, 1]."""

    def __init__(self, channels: int, patch: int, width: int) -> None:
        super().__init__()
        self.patch = patch
        self.embed = nn.Linear(channels * patch, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        patches = x.unflatten(2, (-1, self.patch)).transpose(1, 2).flatten(2)
        return self.embed(patches), numbered(patches[:, :, 0])[:, -1:]


class ClassToken(nn.Module):
    """Puts a learned step before all others, to stand for the whole: [B, T, width] -> [B, T + 1, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, width))

    def no_weight_decay(self) -> set[str]:
        """Parameters that are vectors, whatever their shape."""
        return {"token"}

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(x.size(0), -1, -1), x], 1)


class Transformer(nn.Module):
    """Embedding -> a step that stands for all, if wanted -> positions -> blocks -> pooling, unless each step has an
    output -> head."""

    def __init__(self, config: TransformerConfig, inputs: Inputs, outputs: Outputs) -> None:
        super().__init__()
        width, length = config.width, inputs.shape[-1]
        self.is_text, self.gives_steps = inputs.kind == "text", outputs.form == "steps"
        self.patch = 1 if self.is_text else config.patch
        self.front = _front(inputs, self.patch, width)
        self.more = int(config.pooling == "cls" and not self.gives_steps)
        self.cls = ClassToken(width) if self.more else nn.Identity()
        self.positions = Positions(config.positions, length // self.patch + self.more, width)
        self.dropout = nn.Sequential(*dropout_layers(config))
        rates = path_rates(config.drop_path, config.layers)
        self.blocks = nn.ModuleList(Block(config, rate, pre_norm=config.norm == "pre") for rate in rates)
        self.norm = nn.LayerNorm(width) if config.norm == "pre" else nn.Identity()
        self.pool = Pool("none" if self.gives_steps else config.pooling)
        self.head = nn.Linear(width, outputs.count * (self.patch if self.gives_steps else 1))
        _init_weights(self, config)

    def forward(self, x: Tensor) -> Tensor:
        """Token ids int64 [B, T] or series [B, C, T] -> [B, K], or [B, K, T] with an output for each step."""
        x, lengths = self.front(x)
        x = self.dropout(self.positions(self.cls(x)))
        lengths = lengths + self.more
        mask: Tensor | None = None
        if self.is_text:
            mask = numbered(x[:, :, 0]) <= lengths
        for block in self.blocks:
            x = block(x, mask)
        outputs: Tensor = self.head(self.pool(self.norm(x), lengths))
        if self.gives_steps:
            outputs = outputs.unflatten(2, (-1, self.patch)).transpose(1, 2).flatten(2)
        return outputs


def _front(inputs: Inputs, patch: int, width: int) -> nn.Module:
    if inputs.kind == "text":
        return TextFront(inputs.vocabulary, width)
    return PatchFront(inputs.shape[0], patch, width)


def _init_weights(model: Transformer, config: TransformerConfig) -> None:
    """Xavier (Glorot and Bengio 2010), biases 0; embeddings as large as the positions that are added to them."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    if isinstance(model.front, TextFront):
        nn.init.normal_(model.front.embed.weight, std=0.02 if config.positions == "learned" else 1.0)
        nn.init.zeros_(model.front.embed.weight[0])


def build_transformer(config: TransformerConfig, inputs: Inputs, outputs: Outputs) -> nn.Module:
    """An encoder for texts [B, T] or series [B, C, T], T at most what the inputs have.

    Raises UsageError for other inputs, and for heads or patches that do not divide the width or the steps.
    """
    check_accepts("transformer", inputs, outputs)
    check_heads(config)
    check_no_channels(config)
    if inputs.kind == "series" and inputs.shape[-1] % config.patch:
        steps = inputs.shape[-1]
        allowed = ", ".join(str(n) for n in range(1, min(steps, 64) + 1) if steps % n == 0)
        raise UsageError(f"model.patch: got {config.patch}; allowed for series of {steps} steps: {allowed}")
    return initialise_(Transformer(config, inputs, per_step(inputs, outputs)), config, inputs)
