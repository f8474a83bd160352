import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledl.data.augment import filters

pytestmark = pytest.mark.unit


@settings(deadline=None, max_examples=50)
@given(height=st.integers(1, 9), width=st.integers(1, 9), sigma=st.floats(0.001, 20), level=st.integers(0, 255))
def test_blur_keeps_flat_images_and_stays_in_range(height: int, width: int, sigma: float, level: int) -> None:
    radius = filters.blur_radius(sigma, height, width)
    assert 0 <= radius < max(height, width)
    sigmas = torch.full((2,), sigma, dtype=torch.float64)
    flat = torch.full((2, 1, height, width), float(level))
    assert torch.equal(filters.blur(flat, sigmas, radius), flat)
    black_and_white = torch.arange(2 * height * width).view(2, 1, height, width) % 2 * 255.0
    blurred = filters.blur(black_and_white, sigmas, radius)
    assert 0 <= blurred.min() <= blurred.max() <= 255


def test_each_sample_is_blurred_by_its_own_sigma() -> None:
    point = torch.zeros(3, 1, 15, 15)
    point[:, :, 7, 7] = 255
    peaks = filters.blur(point, torch.tensor([0.001, 0.5, 2.0]).double(), 6)[:, 0, 7, 7].tolist()
    assert peaks[0] == 255
    assert peaks[0] > peaks[1] > peaks[2] > 5


def test_sharpness_needs_an_inside_and_leaves_the_edge() -> None:
    x = torch.arange(2 * 4 * 5.0).view(2, 1, 4, 5) ** 2 % 256
    assert torch.equal(filters.sharpen(x[:, :, :2], torch.zeros(2)), x[:, :, :2])
    smooth = filters.sharpen(x, torch.zeros(2))
    edge = torch.ones(4, 5, dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    assert torch.equal(smooth[..., edge], x[..., edge])
    assert not torch.equal(smooth, x)


def test_noise_is_scaled_and_cut() -> None:
    x, normal = torch.full((1, 1, 1, 4), 250.0), torch.tensor([[-100.0, 0, 1, 0.01]])
    assert filters.add_noise(x, normal, 0.1).flatten().tolist() == pytest.approx([0, 250, 255, 250.255])


def test_boxes_are_half_open() -> None:
    edges = [torch.tensor([value]) for value in (1, 2, 3, 5)]
    found = filters.inside(*edges, 4, 6)[0, 0].nonzero().tolist()
    assert found == [[row, column] for row in (1, 2) for column in (2, 3, 4)]
