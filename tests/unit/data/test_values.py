"""Tables and series as batches: standardised, augmented by each sample's own hash, mixed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledl.config.schema import AugmentConfig, SeriesAugmentConfig
from scaledl.data import Arrays, BatchLoader, DataSpec, normalize
from scaledl.data.arrays import statistics
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

ALL = SeriesAugmentConfig(crop=0.2, warp=0.3, repeat=0.1, noise=0.2, mask=0.3)
SHAPES = {"table": (5,), "series": (2, 12)}


def arrays(modality: str, size: int = 23) -> Arrays:
    generator = torch.Generator().manual_seed(size)
    inputs = torch.randn(size, *SHAPES[modality], generator=generator) * 7 + 3
    return Arrays(inputs, torch.arange(size) % 3, torch.arange(size) * 7 + 100)


def spec_of(data: Arrays) -> DataSpec:
    return DataSpec("test", tuple(data.inputs.shape[1:]), ("a", "b", "c"), *statistics(data.inputs), "")


def loader(modality: str, augment: AugmentConfig, batch_size: int = 5, **options: int) -> BatchLoader:
    data = arrays(modality)
    return BatchLoader(data, spec_of(data), batch_size, shuffle=True, augment=augment, seed=3, **options)


def by_id(batches: list) -> dict[int, list]:
    return {int(i): [*x.flatten().tolist(), *y.flatten().tolist()] for b in batches for i, x, y in zip(b.ids, b.x, b.y)}  # noqa: B905  # an empty slice keeps one row without id


@pytest.mark.parametrize("modality", SHAPES)
def test_every_column_or_channel_is_standardised(modality: str) -> None:
    data = arrays(modality)
    [batch] = BatchLoader(data, spec_of(data), 23)
    columns = batch.x.transpose(0, 1).flatten(1)
    assert torch.allclose(columns.mean(1), torch.zeros(len(columns)), atol=1e-5)
    assert torch.allclose(columns.std(1, correction=0), torch.ones(len(columns)), atol=1e-5)
    assert torch.equal(batch.x, normalize(data.inputs, spec_of(data)))
    assert torch.equal(data.inputs, arrays(modality).inputs)


def test_a_constant_column_becomes_zero() -> None:
    inputs = torch.full((4, 2), 3.0)
    assert statistics(inputs) == ((3.0, 3.0), (1.0, 1.0))


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(["table", "series"]),
    st.integers(1, 30),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 2**31 - 1),
)
def test_what_a_sample_becomes_depends_on_no_batch_and_no_rank(
    modality: str, batch_size: int, world_size: int, mixed: bool, epoch: int
) -> None:
    series = ALL if modality == "series" else SeriesAugmentConfig()
    augment = AugmentConfig(series=series, mixup=0.4 if mixed else 0.0)
    whole = loader(modality, augment, 23)
    whole.set_epoch(epoch)
    ranks = [loader(modality, augment, batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    parts = []
    for one in ranks:
        one.set_epoch(epoch)
        parts += list(one)
    assert by_id(parts) == by_id(list(whole))


def test_mixed_rows_lie_between_two_and_so_do_their_labels() -> None:
    plain = {key: torch.tensor(found[:5]) for key, found in by_id(list(loader("table", AugmentConfig()))).items()}
    labels = {key: (key - 100) // 7 % 3 for key in plain}
    for batch in loader("table", AugmentConfig(mixup=1.0)):
        assert torch.allclose(batch.y.sum(1), torch.ones(len(batch.y)))
        for id, x, y in zip(batch.ids.tolist(), batch.x, batch.y, strict=True):
            partners = [key for key in plain if _weight(x, plain[id], plain[key]) is not None]
            assert any(
                torch.allclose(y, _shares(labels[id], labels[key], _weight(x, plain[id], plain[key])), atol=1e-4)
                for key in partners
            )


def _weight(x: torch.Tensor, own: torch.Tensor, other: torch.Tensor) -> float | None:
    """Share of `own` in x, where x lies on the line between the two."""
    if torch.equal(own, other):
        return 1.0 if torch.allclose(x, own, atol=1e-5) else None
    weight = float(((x - other) * (own - other)).sum() / (own - other).square().sum())
    between = -1e-4 <= weight <= 1 + 1e-4 and torch.allclose(x, own * weight + other * (1 - weight), atol=1e-4)
    return weight if between else None


def _shares(own: int, other: int, weight: float | None) -> torch.Tensor:
    assert weight is not None
    shares = torch.zeros(3)
    shares[own] += weight
    shares[other] += 1 - weight
    return shares


@pytest.mark.parametrize(
    ("modality", "augment", "message"),
    [
        ("table", AugmentConfig(crop=2), r"data\.augment\.crop: got 2, .* modality table; allowed there: mixup; fix"),
        ("table", AugmentConfig(series=ALL), r"data\.augment\.series: got \{'crop': 0\.2, .*modality table"),
        ("series", AugmentConfig(flip=True, cutmix=1.0), "remove data.augment.flip, data.augment.cutmix"),
    ],
)
def test_operations_of_another_modality_are_refused(modality: str, augment: AugmentConfig, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        loader(modality, augment)


def test_operations_of_series_are_refused_for_images() -> None:
    images = Arrays(torch.zeros(4, 3, 3, 1, dtype=torch.uint8), torch.arange(4) % 3, torch.arange(4))
    spec = DataSpec("test", (1, 3, 3), ("a", "b", "c"), (0.5,), (0.5,), "")
    with pytest.raises(UsageError, match="modality image; allowed there: operations of images"):
        BatchLoader(images, spec, 2, augment=AugmentConfig(series=ALL))
