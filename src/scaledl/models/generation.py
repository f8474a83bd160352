"""Text that a causal language model writes on, token by token."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaledl.models.attention import SelfAttention
from scaledl.models.blocks import Block
from scaledl.models.gpt import GPT
from scaledl.runtime.tokens import PADDING_ID

NextFn = Callable[[Tensor], Tensor]


class CachedGPT:
    """Logits of the next token, with the keys and values of the tokens before it kept.

    Equal to the model's own up to rounding. When a text outgrows the context its beginning is left out; every token
    then has another position, so that nothing can be kept.
    """

    def __init__(self, model: GPT) -> None:
        self._model = model
        self._cache = [(torch.empty(0), torch.empty(0))] * len(model.blocks)
        self._length = 0

    def __call__(self, ids: Tensor) -> Tensor:
        """Token ids [B, T], of which the first are those of the call before -> logits of what comes next, [B, V]."""
        ids = ids[:, -self._model.context :]
        if ids.shape[1] != self._length + 1:
            self._length = 0
        x = self._model.embed(ids[:, self._length :]) + self._model.positions.table[self._length : ids.shape[1]]
        for number, block in enumerate(self._model.blocks):
            assert isinstance(block, Block), type(block)
            x = self._block(x, block, number)
        self._length = ids.shape[1]
        logits: Tensor = self._model.head(self._model.norm(x[:, -1]))
        return logits

    def _block(self, x: Tensor, block: Block, number: int) -> Tensor:
        x = x + self._attend(block.norm1(x), block.attention, number)
        result: Tensor = x + block.feed(block.norm2(x))
        return result

    def _attend(self, x: Tensor, layer: SelfAttention, number: int) -> Tensor:
        """[B, new tokens, width] -> the same. New tokens are all there are, or one."""
        q, k, v = (_heads(part(x), layer) for part in (layer.q, layer.k, layer.v))
        if self._length:
            k, v = (torch.cat(pair, 2) for pair in zip(self._cache[number], (k, v), strict=True))
        self._cache[number] = (k, v)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=not self._length, scale=layer.scale)
        result: Tensor = layer.out(attended.transpose(1, 2).flatten(2))
        return result


def _heads(x: Tensor, layer: SelfAttention) -> Tensor:
    heads: Tensor = x.unflatten(2, (layer.num_heads, layer.head_dim))
    return heads.transpose(1, 2)


def next_fn(model: nn.Module | Callable[[Tensor], Tensor], context: int) -> NextFn:
    """What gives the logits of the next token, [B, T] -> [B, V]: with a cache of a GPT, else from all tokens anew.

    `model` gives [B, V, T]; of more than `context` tokens it gets the last ones.
    """
    if isinstance(model, GPT):
        return CachedGPT(model)
    return lambda ids: model(ids[:, -context:])[:, :, -1]


@torch.no_grad()
def generate(
    model: nn.Module | Callable[[Tensor], Tensor],
    ids: Tensor,
    steps: int,
    *,
    context: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`ids` with `steps` more tokens, int64 [B, T] -> [B, T + steps]; never padding.

    Args:
        model: in eval mode; token ids [B, T] -> logits [B, V, T].
        ids: at least one token a row, no padding.
        context: how many tokens the model can see.
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: draw from so many of the likeliest tokens.
        top_p: draw from the likeliest tokens that together have this probability (Holtzman et al. 2020).
        generator: of the draws, on the CPU; default: torch's global one.
    """
    logits_fn = next_fn(model, context)
    for _ in range(steps):
        token = choose(logits_fn(ids), temperature, top_k, top_p, generator)
        ids = torch.cat([ids, token], 1)
    return ids


def choose(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float, generator: torch.Generator | None = None
) -> Tensor:
    """A token for each row of logits [B, V], int64 [B, 1]; arguments as for `generate`."""
    logits = logits.float().cpu().clone()
    logits[:, PADDING_ID] = float("-inf")
    if temperature == 0:
        return logits.argmax(1, keepdim=True)
    shares = restricted(logits / temperature, top_k, top_p).softmax(1)
    return torch.multinomial(shares, 1, generator=generator)


def restricted(logits: Tensor, top_k: int | None, top_p: float) -> Tensor:
    """Logits [B, V] with minus infinity where a token may not be drawn; the likeliest always may."""
    ranked, order = torch.sort(logits, dim=1, descending=True, stable=True)
    above = ranked.softmax(1).cumsum(1) - ranked.softmax(1)  # probability of all that are likelier
    out = above >= top_p if top_p < 1 else torch.zeros_like(above, dtype=torch.bool)
    out[:, 0] = False
    if top_k is not None:
        out[:, top_k:] = True
    return logits.masked_fill(out.scatter(1, order, out), float("-inf"))
