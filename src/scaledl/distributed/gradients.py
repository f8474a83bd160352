"""Sums of gradients over ranks of one machine, through memory that they share.

DistributedDataParallel copies gradients into buckets, and gloo sends them through sockets. Here each rank adds up its
part of the gradients from what the others lay out for it, and all read the sums where they are: per rank and step half
of the gradients are copied once (with two ranks), and no system call is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from scaledl.distributed.near import FOLDER, Near
from scaledl.errors import ScaledlError

CHUNK = 1 << 20  # elements that are laid out at a time: they should stay in the processor's cache
_ALIGN = 16  # elements of a cache line


@dataclass(frozen=True)
class _Piece:
    """A part of one parameter's gradient: elements [start, stop) of it, from `place` in the chunk."""

    parameter: int
    start: int
    stop: int
    place: int


@dataclass(frozen=True)
class _Chunk:
    first: int  # place of the chunk among all elements
    pieces: list[list[_Piece]]  # by the rank that adds them up


class SharedGradients:
    """Adds up the gradients of `module` over all ranks, and gives each rank the buffers of rank 0.

    `private`: gradients are copied out of the shared memory, so that a rank may change them.
    """

    def __init__(
        self, near: Near, parameters: Sequence[nn.Parameter], buffers: Sequence[Tensor], *, private: bool
    ) -> None:
        self.near = near
        self.private = private
        self._parameters = list(reversed(parameters))  # the order in which a backward pass makes them
        self._buffers = list(buffers)
        self._buffer_shapes: list[torch.Size] = []
        self._shared_buffers: list[Tensor] = []

    @classmethod
    def create(
        cls, near: Near, parameters: Sequence[nn.Parameter], buffers: Sequence[Tensor], *, private: bool
    ) -> SharedGradients | None:
        """None, on all ranks, where there is no room for it, or gradients are not dense, in fp32 and laid out alike."""
        suitable = bool(parameters) and all(p.dtype == torch.float32 and _is_dense(p) for p in parameters)
        layout = repr([(tuple(parameter.shape), parameter.stride()) for parameter in parameters])
        told = near.ranks.gather_bytes(hashlib.sha256(layout.encode()).digest() if suitable else b"unsuitable")
        if len(set(told)) > 1 or not suitable:
            return None
        made = cls(near, parameters, buffers, private=private)
        return made if made._take_room() else None

    def _take_room(self) -> bool:
        world = self.near.ranks.world_size
        sizes = [parameter.numel() for parameter in self._parameters]
        self._chunks = list(_plan(sizes, world))
        places = _places(sizes)
        total = places[-1]
        region = self.near.region(4 * (total + 2 * world * CHUNK) + world * len(sizes))
        if region is None:
            return False
        floats = region[: 4 * (total + 2 * world * CHUNK)].view(torch.float32)
        self._sums = floats[:total]
        self._laid_out = floats[total:].view(2, world, CHUNK)
        self._lacks = region[4 * (total + 2 * world * CHUNK) :].view(world, len(sizes))
        self._views = [
            self._sums.as_strided(p.shape, p.stride(), place)
            for p, place in zip(self._parameters, places, strict=False)
        ]
        self._had_all = True
        return True

    def exchange(self) -> None:
        """After a backward pass on every rank: `grad` of every parameter becomes the sum over ranks."""
        flat = self._flat_gradients()
        self._lay_out_buffers()
        rank, world = self.near.ranks.rank, self.near.ranks.world_size
        for number, chunk in enumerate(self._chunks):
            laid_out = self._laid_out[number % 2]
            for owner, pieces in enumerate(chunk.pieces):
                if owner != rank:
                    for piece in pieces:
                        place = laid_out[rank, piece.place : piece.place + piece.stop - piece.start]
                        place.copy_(flat[piece.parameter][piece.start : piece.stop])
            self.near.barrier()
            for piece in chunk.pieces[rank]:
                size = piece.stop - piece.start
                parts = [laid_out[other, piece.place : piece.place + size] for other in range(world)]
                parts[rank] = flat[piece.parameter][piece.start : piece.stop]
                total = self._sums[chunk.first + piece.place :][:size]
                torch.add(parts[0], parts[1], out=total)
                for part in parts[2:]:
                    total.add_(part)
        self._take_buffers()
        nowhere = self._lacks.amin(0)  # where no rank has a gradient, as when one process has none
        self.near.barrier()  # from here on others may lay out what they have next
        self._give(flat, nowhere)

    def _flat_gradients(self) -> list[Tensor]:
        """Elements in the order in which they lie in memory; zeros where this rank has no gradient."""
        gradients = [parameter.grad for parameter in self._parameters]
        has_all = all(gradient is not None for gradient in gradients)
        if not (has_all and self._had_all):
            lacks = torch.tensor([gradient is None for gradient in gradients], dtype=torch.uint8)
            self._lacks[self.near.ranks.rank].copy_(lacks)
        self._had_all = has_all
        return [_flat(p, g) for p, g in zip(self._parameters, gradients, strict=True)]

    def _give(self, flat: list[Tensor], nowhere: Tensor) -> None:
        some = bool(nowhere.any())
        for number, (parameter, view) in enumerate(zip(self._parameters, self._views, strict=True)):
            if some and nowhere[number]:
                parameter.grad = None
            elif self.private:
                parameter.grad = flat[number].as_strided(parameter.shape, parameter.stride())
                parameter.grad.copy_(view)
            else:
                parameter.grad = view

    def _lay_out_buffers(self) -> None:
        shapes = [buffer.shape for buffer in self._buffers]
        if shapes != self._buffer_shapes:  # at first, and where the ranges of observers take shape
            self._share_buffers()
            self._buffer_shapes = shapes
        if self.near.ranks.is_main and self._buffers:
            torch._foreach_copy_(self._shared_buffers, self._buffers)

    def _take_buffers(self) -> None:
        if not self.near.ranks.is_main and self._buffers:
            torch._foreach_copy_(self._buffers, self._shared_buffers)

    def _share_buffers(self) -> None:
        sizes = [buffer.nbytes for buffer in self._buffers]
        places = _places(sizes)
        region = self.near.region(max(places[-1], 1))
        if region is None:
            raise ScaledlError(f"{FOLDER} is full: {places[-1]:,} bytes are wanted there; end what else uses it")
        self._shared_buffers = [
            region[place : place + size].view(buffer.dtype).view(buffer.shape)
            for place, size, buffer in zip(places, sizes, self._buffers, strict=False)
        ]


def _is_dense(parameter: Tensor) -> bool:
    """Whether its elements fill their memory without gaps, in whatever order."""
    spans = sorted((stride, size) for stride, size in zip(parameter.stride(), parameter.shape, strict=True) if size > 1)
    expected = 1
    for stride, size in spans:
        if stride != expected:
            return False
        expected *= size
    return True


def _flat(parameter: nn.Parameter, gradient: Tensor | None) -> Tensor:
    if gradient is None:
        return torch.zeros(parameter.numel())
    if gradient.stride() != parameter.stride():
        gradient = torch.empty_strided(parameter.shape, parameter.stride()).copy_(gradient)
    return gradient.detach().as_strided((parameter.numel(),), (1,))


def _places(sizes: Sequence[int]) -> list[int]:
    """Where each begins when all lie behind each other, on their own cache lines; at the end, where the last ends."""
    places = [0]
    for size in sizes:
        places.append(places[-1] + -(-size // _ALIGN) * _ALIGN)
    return places


def _plan(sizes: Sequence[int], world_size: int) -> Iterator[_Chunk]:
    """All elements in chunks, each cut evenly into the ranks' parts.

    >>> [chunk] = _plan([40, 8], 2)
    >>> [(p.parameter, p.start, p.stop, p.place) for p in chunk.pieces[0]]
    [(0, 0, 32, 0)]
    >>> [(p.parameter, p.start, p.stop, p.place) for p in chunk.pieces[1]]
    [(0, 32, 40, 32), (1, 0, 8, 48)]
    """
    places = _places(sizes)
    for first in range(0, places[-1], CHUNK):
        last = min(first + CHUNK, places[-1])
        share = -(-(last - first) // world_size // _ALIGN) * _ALIGN
        bounds = [min(first + number * share, last) for number in range(world_size)] + [last]
        yield _Chunk(first, [list(_pieces(sizes, places, first, *bound)) for bound in pairwise(bounds)])


def _pieces(sizes: Sequence[int], places: Sequence[int], first: int, start: int, stop: int) -> Iterator[_Piece]:
    for number, (size, place) in enumerate(zip(sizes, places, strict=False)):
        begin, end = max(start, place), min(stop, place + size)
        if begin < end:
            yield _Piece(number, begin - place, end - place, begin - first)
