"""How gradients are cut up among ranks that add them up for each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scaledl.distributed import gradients
from scaledl.distributed.gradients import _is_dense, _places, _plan

pytestmark = pytest.mark.unit


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=12), st.integers(2, 7), st.sampled_from([64, 1024, 1 << 20]))
def test_every_element_is_added_up_by_one_rank(sizes: list[int], world_size: int, chunk: int) -> None:
    before, gradients.CHUNK = gradients.CHUNK, chunk
    try:
        chunks = list(_plan(sizes, world_size))
    finally:
        gradients.CHUNK = before
    places = _places(sizes)
    seen = [torch.zeros(size, dtype=torch.int) for size in sizes]
    for part in chunks:
        assert len(part.pieces) == world_size
        for pieces in part.pieces:
            for piece in pieces:
                seen[piece.parameter][piece.start : piece.stop] += 1
                assert part.first + piece.place == places[piece.parameter] + piece.start
                assert 0 <= piece.place <= piece.place + piece.stop - piece.start <= chunk
    assert all(bool((count == 1).all()) for count in seen)


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_have_about_the_same_to_do(world_size: int) -> None:
    work = [0] * world_size
    for part in _plan([3_000_001, 7, 150_000], world_size):
        for rank, pieces in enumerate(part.pieces):
            work[rank] += sum(piece.stop - piece.start for piece in pieces)
    assert max(work) - min(work) < 500


def test_dense_tensors() -> None:
    image = torch.rand(2, 3, 4, 5)
    dense = [image, image.to(memory_format=torch.channels_last), image.permute(3, 0, 2, 1), torch.rand(3, 1, 1)]
    assert all(_is_dense(tensor) for tensor in dense)
    assert not any(_is_dense(tensor) for tensor in [image[:, :2], torch.rand(4).expand(3, 4), image[..., ::2]])
