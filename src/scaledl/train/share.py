"""Rank 0's model on every rank, tensor by tensor, so that no rank holds it twice on the way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from scaledl.config import Config
from scaledl.distributed.ranks import Ranks
from scaledl.models.blank import blank_parameters
from scaledl.models.structure import Model, Structure, build
from scaledl.train.settings import Settings


def arrives_in_shards(config: Config, settings: Settings, structure: Structure) -> bool:
    """Whether parameters are sent while ZeRO-3 cuts them up, so that the other ranks never hold them whole."""
    zero3 = config.trainer.strategy == "deepspeed" and config.trainer.deepspeed.stage == 3
    return zero3 and can_be_blank(structure) and settings.precision == "fp32"


def can_be_blank(structure: Structure) -> bool:
    """Whether it can be built without values: what prepares a model for quantization looks at them."""
    return all(change["op"] == "resize" for change in structure.history)


def send(module: nn.Module, ranks: Ranks, *, by_shard: bool) -> None:
    """Rank 0. `by_shard`: parameters follow when they are cut into shards."""
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)} if by_shard else set()
    for name, tensor in module.state_dict().items():
        if name not in parameters:
            ranks.broadcast_([tensor.detach().cpu().contiguous()])


def description(model: Model) -> dict[str, Any]:
    """What `receive` has to know: the structure, and the sizes of all tensors. Observers have none before data came."""
    tensors = [
        (name, list(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in model.module.state_dict().items()
    ]
    return {"structure": model.structure.to_json(), "tensors": tensors}


def receive(described: dict[str, Any], ranks: Ranks, *, by_shard: bool) -> Model:
    """Another rank: the same model; with `by_shard` its parameters are blank."""
    structure = Structure.from_json(described["structure"])
    if by_shard:
        with blank_parameters():
            module = build(structure, trust=True)
    else:
        module = build(structure, trust=True)
    own = module.state_dict()
    reshaped: dict[str, Tensor] = {}
    for name, shape, dtype in described["tensors"]:
        place = own.get(name)
        if place is not None and place.is_meta:
            continue
        fits = place is not None and list(place.shape) == shape and place.is_contiguous()
        if place is None or not fits:
            place = reshaped[name] = torch.empty(shape, dtype=getattr(torch, dtype))
        ranks.broadcast_([place])
    if reshaped:
        module.load_state_dict(reshaped, strict=False)
    return Model(module, structure)
