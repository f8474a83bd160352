"""Tensors of a checkpoint that are in memory only while they are written: ZeRO has them in shards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from scaledl.run.files import Rest, no_rest

PORTION = 4 << 20


@dataclass(frozen=True)
class Deferred:
    """A tensor to come. `gather` is a collective: all ranks call it for the same tensors, in the same order."""

    shape: torch.Size
    dtype: torch.dtype
    gather: Callable[[], Tensor]


def gather_all(checkpoint: Any) -> None:
    """Take part in every gathering, and keep nothing."""
    for part in _deferred(checkpoint):
        part.gather()


def write_streaming(checkpoint: Any, path: Path, rest_fn: Rest = no_rest) -> None:
    """Write what `torch.save` would, one tensor in memory at a time. Gathers all, also when the storage fails.

    `rest_fn` is called after every few MB with the seconds that they took.

    The records in the file have no right CRC-32, which torch does not read either; a SHA-256 stands beside the file.
    """
    rest = _deferred(checkpoint)
    try:
        with torch.serialization.skip_data(materialize_fake_tensors=True):
            torch.save(_outline(checkpoint, FakeTensorMode()), path)
        with FakeTensorMode():
            outline = torch.load(path, weights_only=True)
        with path.open("r+b") as file:
            for place, value in _pairs(outline, checkpoint):
                file.seek(place.untyped_storage()._checkpoint_offset or 0)
                content = _values(next(rest).gather()) if isinstance(value, Deferred) else _storage(value)
                for start in range(0, len(content), PORTION):
                    began = time.monotonic()
                    file.write(content[start : start + PORTION])
                    rest_fn(time.monotonic() - began)
    finally:
        gather_all(list(rest))


def _outline(value: Any, fake: FakeTensorMode) -> Any:
    """The same with tensors that have a shape only, for those to come."""
    if isinstance(value, Deferred):
        with fake:
            return torch.empty(value.shape, dtype=value.dtype)
    if isinstance(value, dict):
        return type(value)((key, _outline(item, fake)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return type(value)(_outline(item, fake) for item in value)
    return value


def _pairs(outline: Any, value: Any) -> Iterator[tuple[Tensor, Any]]:
    """Each tensor's place in the file, with what belongs there."""
    if isinstance(value, Tensor | Deferred):
        yield outline, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _pairs(outline[key], item)
    elif isinstance(value, list | tuple):
        for one, other in zip(outline, value, strict=True):
            yield from _pairs(one, other)


def _values(tensor: Tensor) -> Any:
    """Of a tensor, which may be a view on more, in the order of its indices."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


def _storage(tensor: Tensor) -> Any:
    """All that torch.save writes for a tensor, in whatever order its strides have it."""
    storage = tensor.detach().cpu().untyped_storage()
    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy()


def _deferred(value: Any) -> Iterator[Deferred]:
    if isinstance(value, Deferred):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _deferred(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _deferred(item)
