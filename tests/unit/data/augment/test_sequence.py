from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scaledl.data.augment import sequence

pytestmark = pytest.mark.unit

Fn = Callable[[Tensor, Tensor, int, int, float], Tensor]
FUNCTIONS: dict[str, Fn] = {
    "noise": sequence.add_noise,
    "repeat": sequence.repeat_steps,
    "warp": sequence.warp_time,
    "mask": sequence.mask_steps,
    "crop": sequence.crop_time,
}


def waves(batch: int, channels: int = 2, steps: int = 30) -> Tensor:
    return torch.randn(batch, channels, steps, generator=torch.Generator().manual_seed(batch)) + 5


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(sorted(FUNCTIONS)),
    batch=st.integers(1, 6),
    channels=st.integers(1, 3),
    steps=st.integers(1, 40),
    strength=st.floats(0, 0.99),
    seed=st.integers(0, 2**31 - 1),
    epoch=st.integers(0, 1000),
)
def test_shape_stays_and_a_sample_is_the_same_in_any_batch(
    name: str, batch: int, channels: int, steps: int, strength: float, seed: int, epoch: int
) -> None:
    x, ids = waves(batch, channels, steps), torch.arange(batch) * 3 + 1
    before = x.clone()
    result = FUNCTIONS[name](x, ids, seed, epoch, strength)
    assert result.shape == x.shape
    assert result.dtype == torch.float32
    assert torch.isfinite(result).all()
    assert torch.equal(x, before)
    for i in range(batch):
        assert torch.equal(FUNCTIONS[name](x[i : i + 1], ids[i : i + 1], seed, epoch, strength)[0], result[i])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_strength_zero_changes_nothing_and_any_other_differs_by_sample_epoch_and_seed(name: str) -> None:
    x, ids = waves(1).expand(40, -1, -1).contiguous(), torch.arange(40)
    torch.testing.assert_close(FUNCTIONS[name](x, ids, 0, 0, 0.0), x)
    results = [FUNCTIONS[name](x, ids, *place, 0.5) for place in ((0, 0), (0, 1), (1, 0))]
    assert len({tuple(row.flatten().tolist()) for row in results[0]}) > 20
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_repeated_steps_are_neighbours_in_order() -> None:
    steps = torch.arange(50.0).expand(200, 1, -1).contiguous()
    result = sequence.repeat_steps(steps, torch.arange(200), 0, 0, 0.3)[:, 0]
    jumps = result.diff(dim=1)
    assert set(jumps.unique().tolist()) == {0.0, 1.0}
    assert (result[:, 0] == 0).all()
    assert ((result == result[:, 10:11]).sum(1) <= 2).all()
    assert (result[:, :-1] == result[:, 1:]).double().mean().item() == pytest.approx(0.3 / 1.3, abs=0.02)


def test_warped_time_runs_forward_from_end_to_end() -> None:
    ramp = torch.linspace(0, 1, 40).expand(100, 1, -1).contiguous()
    result = sequence.warp_time(ramp, torch.arange(100), 0, 0, 0.8)[:, 0]
    assert (result.diff(dim=1) > 0).all()
    torch.testing.assert_close(result[:, [0, -1]], torch.tensor([[0.0, 1.0]]).expand(100, -1))
    assert (result - ramp[:, 0]).abs().max() > 0.1


def test_one_span_is_masked_up_to_its_share() -> None:
    result = sequence.mask_steps(torch.ones(2000, 2, 20), torch.arange(2000), 0, 0, 0.25, value=-1.0)
    assert torch.equal(result[:, 0], result[:, 1])
    masked = result[:, 0] == -1
    assert set(masked.sum(1).tolist()) == set(range(6))
    edges = torch.nn.functional.pad(masked.long(), (1, 1)).diff(dim=1)
    assert ((edges == 1).sum(1) <= 1).all()
    assert masked.any(0).all()


def test_a_crop_is_a_stretched_window() -> None:
    ramp = torch.linspace(0, 1, 41).expand(500, 1, -1).contiguous()
    result = sequence.crop_time(ramp, torch.arange(500), 0, 0, 0.25)[:, 0]
    torch.testing.assert_close(result[:, -1] - result[:, 0], torch.full((500,), 0.75))
    assert 0 <= result[:, 0].min() < 0.01
    assert 0.24 < result[:, 0].max() <= 0.25


def test_noise_has_the_deviation_asked_for() -> None:
    added = sequence.add_noise(torch.zeros(100, 3, 100), torch.arange(100), 0, 0, 0.2)
    assert added.std().item() == pytest.approx(0.2, rel=0.03)
