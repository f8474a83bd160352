"""Choosing channels: pure functions, for any scores."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scaledl.compress.ranking import channels_to_keep, select_global, select_uniform

pytestmark = pytest.mark.unit

RATIOS = st.floats(0.01, 0.99)
ROUND_TO = st.sampled_from([1, 2, 4, 8, 16])
LAYERS = st.lists(
    st.lists(st.floats(0, 1, allow_nan=False), min_size=1, max_size=70).map(torch.tensor), min_size=1, max_size=6
)


@given(count=st.integers(1, 4096), ratio=RATIOS, round_to=ROUND_TO)
def test_what_stays_is_never_nothing_and_near_the_share(count: int, ratio: float, round_to: int) -> None:
    keep = channels_to_keep(count, ratio, round_to)
    assert 1 <= keep <= count
    assert keep == count or keep % round_to == 0
    assert keep >= min(count, round_to)
    if keep not in (count, round_to):
        assert abs(keep - count * (1 - ratio)) <= round_to / 2 + 1e-6


def test_a_small_ratio_does_not_round_half_the_layer_away() -> None:
    assert channels_to_keep(16, 0.01, 8) == 16
    assert channels_to_keep(64, 0.5, 8) == 32
    assert channels_to_keep(64, 0.99, 8) == 8


@pytest.mark.parametrize("select_fn", [select_uniform, select_global])
@given(scores=LAYERS, ratio=RATIOS, round_to=ROUND_TO)
def test_the_least_important_channels_go(select_fn, scores, ratio: float, round_to: int) -> None:  # type: ignore[no-untyped-def]
    chosen = select_fn(scores, ratio, round_to)
    assert len(chosen) == len(scores)
    for score, gone in zip(scores, chosen, strict=True):
        kept = sorted(set(range(len(score))) - set(gone))
        assert gone == sorted(set(gone))
        assert len(kept) == len(score) or (len(kept) % round_to == 0 and kept)
        if gone:
            assert score[gone].max() <= score[kept].min()


@given(scores=LAYERS, ratio=RATIOS)
def test_uniform_takes_the_share_from_every_layer(scores: list[torch.Tensor], ratio: float) -> None:
    for score, gone in zip(scores, select_uniform(scores, ratio, 1), strict=True):
        assert len(gone) == len(score) - channels_to_keep(len(score), ratio, 1)


def test_global_takes_from_the_layer_that_matters_least() -> None:
    weak, strong = torch.linspace(0, 0.4, 32), torch.linspace(0.6, 1, 32)
    assert [len(gone) for gone in select_global([weak, strong], 0.25, 1)] == [16, 0]
    assert [len(gone) for gone in select_global([weak, strong], 0.5, 1)] == [31, 0], "no layer disappears"


def test_global_treats_equal_scores_alike() -> None:
    assert [len(gone) for gone in select_global([torch.ones(16), torch.ones(32)], 0.5, 8)] == [8, 16]
    assert select_global([], 0.5, 8) == []
