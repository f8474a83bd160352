"""Random generators of all ranks, saved and restored."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import torch

from scaledl.data.hashing import hash_key
from scaledl.distributed.ranks import Ranks


def random_state() -> dict[str, Any]:
    """State of torch's, numpy's and python's generators as tensors and lists (loads without pickle)."""
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    version, internal, gauss = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": {
            "keys": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
            "pos": int(numpy_state["state"]["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]),
        },
        "python": [version, list(internal), gauss],
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Inverse of `random_state`."""
    torch.set_rng_state(state["torch"])
    keys = state["numpy"]["keys"].numpy().astype(np.uint32)
    position = state["numpy"]["pos"]
    np.random.set_state(("MT19937", keys, position, state["numpy"]["has_gauss"], state["numpy"]["gauss"]))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def ranks_random_state(ranks: Ranks, mine: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The states of all ranks, on every rank; all call it together. `mine`: this rank's, by default as it is now."""
    state = random_state() if mine is None else mine
    if not ranks.several:
        return [state]
    return [_decoded(data) for data in ranks.gather_bytes(_encoded(state))]


def restore_ranks_random_state(states: list[dict[str, Any]], ranks: Ranks, seed: int, step: int) -> None:
    """Restore this rank's state; of another number of ranks, seed all generators from (seed, step, rank)."""
    if len(states) == ranks.world_size:
        restore_random_state(states[ranks.rank])
        return
    seed_generators(seed, step, ranks.rank)


def seed_generators(seed: int, step: int, rank: int) -> None:
    """Torch's, numpy's and python's, so that what is drawn from `step` on follows from these three numbers."""
    key = hash_key(seed, step, rank)
    torch.manual_seed(key)
    np.random.seed(key % 2**32)
    random.seed(key)


def _encoded(state: dict[str, Any]) -> bytes:
    return json.dumps(state, default=lambda tensor: {"tensor": tensor.tolist(), "dtype": str(tensor.dtype)}).encode()


def _decoded(data: bytes) -> dict[str, Any]:
    def tensor(value: dict[str, Any]) -> Any:
        if value.keys() != {"tensor", "dtype"}:
            return value
        return torch.tensor(value["tensor"], dtype=getattr(torch, value["dtype"].removeprefix("torch.")))

    state: dict[str, Any] = json.loads(data, object_hook=tensor)
    return state
