import pytest
import torch

from scaledl.data.augment.draws import between, normals, quantile, symmetric_beta_quantiles, uniforms
from scaledl.data.hashing import NOISE, hash_key, hash_positions

pytestmark = pytest.mark.unit


def test_uniforms_are_uniform_and_independent() -> None:
    drawn = uniforms(torch.arange(50_000), 0, 0, (7, 8))
    counts = torch.histc(drawn[0], 20, 0, 1)
    assert (counts - 2500).abs().max() < 5 * 2500**0.5
    assert abs(torch.corrcoef(drawn)[0, 1].item()) < 0.02
    assert 0 <= drawn.min() <= drawn.max() < 1
    assert drawn.dtype == torch.float64


def test_between_has_its_bounds() -> None:
    assert between(torch.tensor([0.0, 0.5]), -2, 4).tolist() == [-2, 1]


@pytest.mark.parametrize("count", [1, 3, 4, 5, 17])
def test_normals_of_a_position_do_not_depend_on_their_number(count: int) -> None:
    ids = torch.arange(30)
    drawn = normals(ids, 1, 2, NOISE, count)
    assert drawn.shape == (30, count)
    assert torch.equal(drawn, normals(ids, 1, 2, NOISE, 40)[:, :count])
    assert torch.equal(drawn[[4, 2]], normals(torch.tensor([4, 2]), 1, 2, NOISE, count))


def test_positions_of_all_ids_are_different() -> None:
    bits = hash_positions(torch.arange(300), hash_key(0, 0, NOISE), 300)
    assert len(bits.unique()) == 90_000


@pytest.mark.parametrize("alpha", [0.01, 0.3, 1.0, 5.0, 100.0])
def test_beta_quantiles_are_sorted_symmetric_and_have_the_variance(alpha: float) -> None:
    quantiles = symmetric_beta_quantiles(alpha)
    assert (quantiles.diff() >= 0).all()
    torch.testing.assert_close(quantiles, 1 - quantiles.flip(0))
    assert quantiles.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=1e-3)
    assert quantile(torch.tensor([0.0, 1 - 2**-32], dtype=torch.float64), quantiles).tolist() == [
        quantiles[0].item(),
        quantiles[-1].item(),
    ]
