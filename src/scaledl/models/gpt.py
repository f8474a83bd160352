"""Causal language model in the manner of GPT-2 (Radford et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scaledl.config.schema import GPTConfig
from scaledl.errors import UsageError
from scaledl.models.accepts import check_accepts
from scaledl.models.blocks import Block, Positions, check_heads
from scaledl.models.dropout import check_no_channels, dropout_layers, path_rates
from scaledl.models.init import initialise_
from scaledl.runtime.signature import Inputs, Outputs


class GPT(nn.Module):
    """Embedding -> learned positions -> blocks in which a step sees itself and those before it -> LayerNorm -> head,
    which has the embeddings as its weights where they are tied (Press and Wolf 2017).

    Padding comes last in a text, so no token sees it. `context` is how many tokens a text may have.
    """

    def __init__(self, config: GPTConfig, inputs: Inputs, outputs: Outputs) -> None:
        super().__init__()
        self.context = inputs.shape[0]
        self.embed = nn.Embedding(inputs.vocabulary, config.width)
        self.positions = Positions("learned", self.context, config.width)
        self.dropout = nn.Sequential(*dropout_layers(config))
        rates = path_rates(config.drop_path, config.layers)
        self.blocks = nn.ModuleList(Block(config, rate, causal=True) for rate in rates)
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, outputs.count, bias=False)
        _init_weights(self)
        if config.tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids int64 [B, T], T at most `context` -> logits of what comes after each token, [B, V, T]."""
        x = self.dropout(self.positions(self.embed(ids)))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits.transpose(1, 2)


@torch.no_grad()
def _init_weights(model: GPT) -> None:
    """Normal, biases 0: std 0.02 at GPT-2's width of 768, at others by the root of the width; less for what is added to
    the residual stream, of which there are two a block."""
    std = 0.02 * (768 / model.embed.embedding_dim) ** 0.5
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear | nn.Embedding):
            is_added = name.endswith(("attention.out", "feed.2"))
            nn.init.normal_(layer.weight, std=std / (2 * len(model.blocks)) ** 0.5 if is_added else std)
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    nn.init.normal_(model.positions.table, std=std)


def build_gpt(config: GPTConfig, inputs: Inputs, outputs: Outputs) -> nn.Module:
    """A decoder for texts [B, T], T at most what the inputs have.

    Raises UsageError for other inputs, for heads that do not divide the width, and for tied embeddings where the
    outputs are not the vocabulary.
    """
    check_accepts("gpt", inputs, outputs)
    check_heads(config)
    check_no_channels(config)
    if config.tied and outputs.count != inputs.vocabulary:
        raise UsageError(
            f"model.tied: got true, and the task wants {outputs.count} outputs of each token where the vocabulary has "
            f"{inputs.vocabulary}; allowed: false, or a task that predicts tokens"
        )
    return initialise_(GPT(config, inputs, outputs), config, inputs)
