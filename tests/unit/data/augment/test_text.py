from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scaledl.data.augment.text import drop_tokens, mask_spans, swap_tokens

pytestmark = pytest.mark.unit

PAD, MASK = 0, 1
Result = tuple[Tensor, Tensor]


def drop(tokens: Tensor, lengths: Tensor, ids: Tensor, share: float) -> Result:
    return drop_tokens(tokens, ids, 3, 1, share, lengths=lengths, padding_id=PAD)


def swap(tokens: Tensor, lengths: Tensor, ids: Tensor, share: float) -> Result:
    return swap_tokens(tokens, ids, 3, 1, share, lengths=lengths), lengths


def mask(tokens: Tensor, lengths: Tensor, ids: Tensor, share: float) -> Result:
    return mask_spans(tokens, ids, 3, 1, share, lengths=lengths, mask_id=MASK), lengths


FUNCTIONS: dict[str, Callable[[Tensor, Tensor, Tensor, float], Result]] = {"drop": drop, "swap": swap, "mask": mask}


def make_tokens(lengths: list[int], width: int) -> tuple[Tensor, Tensor]:
    """Row `i` holds the tokens 10, 11, … of its length; the rest is padding."""
    tokens = (torch.arange(width) + 10).expand(len(lengths), -1)
    sizes = torch.tensor(lengths)
    return tokens.masked_fill(torch.arange(width) >= sizes.unsqueeze(1), PAD), sizes


@settings(deadline=None, max_examples=80)
@given(
    name=st.sampled_from(sorted(FUNCTIONS)),
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=6),
    more=st.integers(0, 9),
    share=st.floats(0, 0.99),
)
def test_padding_stays_padding_and_a_sample_is_the_same_in_any_batch(
    name: str, lengths: list[int], more: int, share: float
) -> None:
    width = max(1, *lengths) + more
    tokens, sizes = make_tokens(lengths, width)
    ids = torch.arange(len(lengths)) * 5
    before = tokens.clone()
    result, result_sizes = FUNCTIONS[name](tokens, sizes, ids, share)
    assert torch.equal(tokens, before)
    assert result.shape == tokens.shape
    assert result.dtype == torch.int64
    real = torch.arange(width) < result_sizes.unsqueeze(1)
    assert torch.equal(result != PAD, real)
    for i, length in enumerate(lengths):
        alone, alone_size = FUNCTIONS[name](
            tokens[i : i + 1, : max(1, length)], sizes[i : i + 1], ids[i : i + 1], share
        )
        assert alone_size.item() == result_sizes[i].item()
        assert torch.equal(alone[0], result[i, : max(1, length)]), "padded further, and beside others"
        kept = result[i, : int(result_sizes[i])].tolist()
        own = tokens[i, :length].tolist()
        if name == "drop":
            assert kept == sorted(kept)
            assert set(kept) <= set(own)
            assert min(1, length) <= len(kept) <= length
        elif name == "swap":
            assert sorted(kept) == own
            assert all(abs(token - 10 - place) <= 1 for place, token in enumerate(kept))
        else:
            assert all(token in (MASK, before_) for token, before_ in zip(kept, own, strict=True))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_share_zero_changes_nothing(name: str) -> None:
    tokens, sizes = make_tokens([0, 1, 7, 9], 9)
    result, result_sizes = FUNCTIONS[name](tokens, sizes, torch.arange(4), 0.0)
    assert torch.equal(result, tokens)
    assert torch.equal(result_sizes, sizes)


def test_shares_are_met_at_every_place() -> None:
    tokens, sizes = make_tokens([20] * 5000, 20)
    ids = torch.arange(5000)
    _, lengths = drop(tokens, sizes, ids, 0.3)
    assert lengths.double().mean().item() == pytest.approx(14, abs=0.2)
    masked = (mask(tokens, sizes, ids, 0.3)[0] == MASK).double().mean(0)
    assert (masked - 0.3).abs().max() < 0.035
    swapped = (swap(tokens, sizes, ids, 0.3)[0] != tokens).double().mean(0)
    assert (swapped[1:-1] - 0.3).abs().max() < 0.035
    assert (swapped[[0, -1]] - 0.15).abs().max() < 0.03


def test_masked_spans_have_their_length() -> None:
    tokens, sizes = make_tokens([30] * 1000, 30)
    masked = mask_spans(tokens, torch.arange(1000), 0, 0, 0.1, lengths=sizes, mask_id=MASK, span=4) == MASK
    begins = (masked[:, 1:] & ~masked[:, :-1])[:, :-4].nonzero().tolist()
    assert len(begins) > 100
    for row, place in begins:
        assert masked[row, place + 1 : place + 5].all()


def test_one_token_stays_where_all_would_go() -> None:
    tokens, sizes = make_tokens([5] * 200, 6)
    kept, lengths = drop(tokens, sizes, torch.arange(200), 1.0)
    assert (lengths == 1).all()
    assert len(kept[:, 0].unique()) == 5


def test_nothing_happens_to_tokens_that_are_fixed() -> None:
    tokens, sizes = make_tokens([8] * 300, 9)
    ids = torch.arange(300)
    fixed = (tokens == 10) | (tokens == 17)  # the first and the last
    kept, lengths = drop_tokens(tokens, ids, 3, 1, 0.9, lengths=sizes, padding_id=PAD, fixed=fixed)
    assert (kept[:, 0] == 10).all()
    assert (kept.gather(1, lengths.unsqueeze(1) - 1) == 17).all()
    assert (lengths >= 3).all(), "one of the others stays, too"
    swapped = swap_tokens(tokens, ids, 3, 1, 1.0, lengths=sizes, fixed=fixed)
    assert (swapped[:, [0, 7]] == tokens[:, [0, 7]]).all()
    assert (swapped != tokens).any()
    masked = mask_spans(tokens, ids, 3, 1, 0.9, lengths=sizes, mask_id=MASK, fixed=fixed)
    assert (masked[:, [0, 7]] == tokens[:, [0, 7]]).all()
    assert ((masked == MASK).double().mean(0)[1:7] > 0.8).all()
