"""Checkpoints of tensors that are gathered one by one while they are written."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scaledl.distributed.deferred import Deferred, gather_all, write_streaming

pytestmark = pytest.mark.unit


class Gatherings:
    """Deferred tensors, and the order in which they were gathered."""

    def __init__(self) -> None:
        self.order: list[int] = []

    def deferred(self, tensor: Tensor) -> Deferred:
        def gather() -> Tensor:
            self.order.append(number)
            return tensor

        number = self.count = getattr(self, "count", -1) + 1
        return Deferred(tensor.shape, tensor.dtype, gather)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


@pytest.mark.parametrize("mapped", [False, True])
def test_the_file_is_what_torch_save_would_write(tmp_path: Path, mapped: bool) -> None:
    gatherings = Gatherings()
    image = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    moment = torch.rand(9, 7)[:7, :3].t()  # a view
    plain: dict[str, Any] = {
        "state_dict": {"a": torch.rand(7, 3), "b": image, "c": torch.zeros(0), "d": torch.tensor(3)},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(2.0), "m": moment}}}],
        "loops": {"n": 3, "name": "x", "pair": (1, torch.arange(4))},
    }
    lazy = copy.deepcopy(plain)
    lazy["state_dict"]["a"] = gatherings.deferred(plain["state_dict"]["a"])
    lazy["optimizer_states"][0]["state"][0]["m"] = gatherings.deferred(moment)
    write_streaming(lazy, tmp_path / "x.ckpt")
    loaded = torch.load(tmp_path / "x.ckpt", weights_only=True, mmap=mapped)
    assert same(plain, loaded)
    assert gatherings.order == [0, 1]


def test_a_disk_that_fails_leaves_no_rank_waiting(tmp_path: Path) -> None:
    gatherings = Gatherings()
    lazy = {"state_dict": {str(n): gatherings.deferred(torch.rand(10)) for n in range(4)}}
    with pytest.raises((OSError, RuntimeError)):
        write_streaming(lazy, tmp_path / "missing" / "x.ckpt")
    assert gatherings.order == [0, 1, 2, 3]


def test_other_ranks_gather_the_same_and_keep_nothing() -> None:
    gatherings = Gatherings()
    lazy = {"state_dict": {"a": gatherings.deferred(torch.rand(2))}, "more": [(gatherings.deferred(torch.rand(3)), 1)]}
    gather_all(lazy)
    assert gatherings.order == [0, 1]
