import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledl.data.split import stratified_split
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

counts_of_classes = st.lists(st.integers(2, 40), min_size=1, max_size=6)


def labels_of(counts: list[int]) -> torch.Tensor:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


def names_of(counts: list[int]) -> tuple[str, ...]:
    return tuple(f"class {i}" for i in range(len(counts)))


@settings(deadline=None)
@given(counts_of_classes, st.floats(0.01, 0.99), st.integers(0, 2**31 - 1))
def test_split_is_a_stratified_partition(counts: list[int], fraction: float, seed: int) -> None:
    labels = labels_of(counts)
    kept, held = stratified_split(labels, fraction, seed, names_of(counts))
    assert torch.cat([kept, held]).sort().values.tolist() == list(range(len(labels)))
    assert kept.tolist() == sorted(kept.tolist())
    assert held.tolist() == sorted(held.tolist())
    for label, count in enumerate(counts):
        held_count = int((labels[held] == label).sum())
        assert 1 <= held_count < count
        assert abs(held_count - count * fraction) <= 1


def test_split_depends_on_the_seed_alone() -> None:
    labels = labels_of([50, 50])
    global_state = torch.get_rng_state()
    first, again, other = (stratified_split(labels, 0.2, seed, ("a", "b"))[1] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(global_state, torch.get_rng_state())


@pytest.mark.parametrize("counts", [[5, 1], [5, 0]])
def test_a_class_too_small_to_split_is_named(counts: list[int]) -> None:
    with pytest.raises(UsageError, match=rf"data.val_fraction.*'rare' has {counts[1]}"):
        stratified_split(labels_of(counts), 0.5, 0, ("common", "rare"))
