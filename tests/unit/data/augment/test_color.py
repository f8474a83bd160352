import pytest
import torch

from scaledl.data.augment import color

pytestmark = pytest.mark.unit


def images(channels: int) -> torch.Tensor:
    return torch.randint(0, 256, (6, channels, 5, 7), generator=torch.Generator().manual_seed(1)).float()


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("name", color.REFERENCES)
def test_factor_one_changes_nothing_and_zero_leaves_the_reference(name: str, channels: int) -> None:
    x, reference = images(channels), color.REFERENCES[name](images(channels))
    assert torch.equal(color.blend(x, reference, torch.ones(6)), x)
    assert torch.equal(color.blend(x, reference, torch.zeros(6)), reference.floor().expand_as(x))


def test_jitter_blends_in_the_order_of_each_sample() -> None:
    x, factors = images(3), torch.rand(2, 6, generator=torch.Generator().manual_seed(2)) + 0.5
    order = torch.tensor([[0, 1, 0, 1, 0, 1], [1, 0, 1, 0, 1, 0]])
    references = [color.black, color.mean_grey]
    result = color.jitter(x, references, factors, order)
    for i in range(6):
        expected = x[i : i + 1]
        for turn in order[:, i].tolist():
            expected = color.blend(expected, references[turn](expected), factors[turn, i : i + 1])
        assert torch.equal(result[i : i + 1], expected)


def test_grey_is_exact_on_every_grey_level() -> None:
    levels = torch.arange(256.0).view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
    assert (color.grey(levels)[:, 0, 0, 0] - torch.arange(256)).abs().max() <= 1
    assert color.grey(torch.tensor([255.0, 0, 0]).view(1, 3, 1, 1)).item() == 76


def test_contrast_of_large_images_sums_exactly() -> None:
    x = torch.full((1, 1, 512, 512), 255.0)
    x[0, 0, 0, 0] = 0
    assert color.mean_grey(x).item() == pytest.approx(255 * (1 - 1 / 512**2), rel=1e-7)


def test_equalize_and_autocontrast_leave_flat_images_and_stretch_others() -> None:
    flat = torch.full((2, 3, 5, 5), 40.0)
    assert torch.equal(color.autocontrast(flat), flat)
    assert torch.equal(color.equalize(flat), flat)
    ramp = torch.arange(100.0).view(1, 1, 10, 10) + 50
    stretched = color.autocontrast(ramp)
    assert (stretched.min(), stretched.max()) == (0, 254)  # cut, not rounded: as torchvision-v2
    assert torch.equal(stretched.flatten().sort().values, stretched.flatten())
