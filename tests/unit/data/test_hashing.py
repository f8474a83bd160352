import pytest
import torch

from scaledl.data.hashing import MASK, below, generator, hash_ids, hash_key

pytestmark = pytest.mark.unit


def test_hash_ids_gives_the_published_splitmix64_stream() -> None:
    # The first outputs for seed 1234567, as printed by the authors' reference implementation.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [value & MASK for value in hash_ids(torch.arange(4), [1234567])[0].tolist()] == published


def test_keys_depend_on_every_part_and_on_their_order() -> None:
    parts = [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 1), (0, 1, 0), (2**31 - 1, 0)]
    keys = {hash_key(*part) for part in parts}
    assert len(keys) == len(parts)
    assert all(0 <= key < 2**63 for key in keys)


@pytest.mark.parametrize("bound", [1, 2, 5, 129])
def test_below_is_uniform_over_consecutive_ids(bound: int) -> None:
    draws = below(hash_ids(torch.arange(100_000), [hash_key(0, 0, 1)]), (bound,))[0]
    counts = torch.bincount(draws, minlength=bound).double()
    expected = 100_000 / bound
    assert len(counts) == bound
    # Five standard deviations of a binomial count.
    assert (counts - expected).abs().max() <= 5 * (expected * (1 - 1 / bound)) ** 0.5


def test_draws_of_two_operations_are_independent() -> None:
    first, second = below(hash_ids(torch.arange(100_000), [hash_key(0, 0, 1), hash_key(0, 0, 2)]), (2, 2))
    assert abs((first == second).double().mean().item() - 0.5) < 0.01


def test_generator_is_reproducible_and_leaves_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (torch.randperm(50, generator=generator(*parts)) for parts in ((1, 2), (1, 2), (2, 1)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())
