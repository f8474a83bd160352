"""Self-attention with one layer for queries, keys and values, as timm writes it: how it shrinks with its channels.

Heads stay; each loses the same dimensions. The fused kernel scales the scores by the new size of a head, the layer's
own path by `scale`, which stays behind: both are put right by the queries' rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

_QUERY_KEY_VALUE = (
    ("query", "key", "value"),
    ("query_proj", "key_proj", "value_proj"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("q", "k", "v"),
)
_HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head")


def fused_heads(module: nn.Module) -> dict[nn.Module, int]:
    """For each `qkv` layer of an attention that can be pruned, how many heads it has."""
    return {layer.qkv: layer.num_heads for layer in fused_attentions(module)}


def fused_attentions(module: nn.Module) -> Iterator[Any]:
    """Attentions that are their `qkv` and `proj` layers and nothing else that depends on the size of a head."""
    for layer in module.modules():
        if _is_fused(layer):
            yield layer


def has_other_attention(module: nn.Module) -> bool:
    """Whether some part has heads that nothing here knows how to prune."""
    return any((_has_heads(layer) or query_key_value(layer)) and not _is_fused(layer) for layer in module.modules())


def query_key_value(layer: nn.Module) -> list[nn.Linear]:
    """The linear layers that make queries, keys and values, where there is one for each; else empty."""
    for names in _QUERY_KEY_VALUE:
        parts = [part for name in names if isinstance(part := getattr(layer, name, None), nn.Linear)]
        if len(parts) == len(names):
            return parts
    return []


@torch.no_grad()
def settle_attention_(module: nn.Module) -> None:
    """After pruning: bring each attention's sizes and scale in line with its layers; scores stay as they were."""
    for layer in fused_attentions(module):
        size = layer.qkv.out_features // (3 * layer.num_heads)
        if size == layer.head_dim:
            continue
        queries = layer.num_heads * size
        for tensor in (layer.qkv.weight, layer.qkv.bias):
            if tensor is not None:
                tensor[:queries] *= math.sqrt(size / layer.head_dim)
        layer.head_dim, layer.scale = size, size**-0.5
        if isinstance(getattr(layer, "attn_dim", None), int):
            layer.attn_dim = queries


def downstream(graph: Any, group: Any, heads: Mapping[nn.Module, int]) -> Any:
    """An attention's group, seen from the layer that reads its output: there a channel is one dimension of one head."""
    if not any(_makes(dep) and dep.target.module in heads for dep, _ in group):
        return group
    reads = [(dep, idxs) for dep, idxs in group if isinstance(dep.target.module, nn.Linear) and not _makes(dep)]
    dep, idxs = reads[-1]
    return graph.get_pruning_group(dep.target.module, dep.handler, list(range(len(idxs))))


def _makes(dep: Any) -> bool:
    return "out_channels" in dep.handler.__name__


def _is_fused(layer: nn.Module) -> bool:
    parts = {name for name, _ in layer.named_parameters()}
    own = {f"{part}.{kind}" for part in ("qkv", "proj") for kind in ("weight", "bias")}
    linear = all(isinstance(getattr(layer, part, None), nn.Linear) for part in ("qkv", "proj"))
    sizes = all(hasattr(layer, name) for name in ("num_heads", "head_dim", "scale"))
    return linear and sizes and parts <= own


def _has_heads(layer: nn.Module) -> bool:
    return any(isinstance(count := getattr(layer, name, None), int) and count > 1 for name in _HEAD_COUNTS)
