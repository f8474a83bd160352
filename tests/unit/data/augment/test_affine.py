import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledl.config.schema import AugmentConfig
from scaledl.data.augment.affine import Affine, draw_affine, resample, source_matrix

pytestmark = pytest.mark.unit

ANGLES = st.floats(-3.2, 3.2)


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def image(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * width)
    return torch.randint(0, 256, (1, 3, height, width), generator=generator).float()


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("size", [(1, 1), (7, 4), (28, 28), (33, 224)])
def test_identity_changes_nothing(size: tuple[int, int], mode: str) -> None:
    x = image(*size)
    assert torch.equal(resample(x, source_matrix(Affine.identity(numbers(0))), mode), x)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_shifts_are_right_and_down_and_leave_black(mode: str) -> None:
    x = image(6, 9)
    moved = resample(x, source_matrix(Affine.identity(numbers(0))._replace(x=numbers(2), y=numbers(-1))), mode)
    assert torch.equal(moved[..., :5, 2:], x[..., 1:, :7])
    assert not moved[..., 5:, :].any()
    assert not moved[..., :2].any()


def test_quarter_turns_are_clockwise_and_exact() -> None:
    x = image(8, 8)
    turned = resample(x, source_matrix(Affine.identity(numbers(0))._replace(angle=numbers(torch.pi / 2))), "nearest")
    assert torch.equal(turned, x.rot90(-1, (2, 3)))


@settings(deadline=None, max_examples=100)
@given(angle=ANGLES, x=st.floats(-9, 9), y=st.floats(-9, 9), scale=st.floats(0.2, 5), slant=st.floats(-2, 2))
def test_the_matrix_undoes_the_product_of_its_parts(
    angle: float, x: float, y: float, scale: float, slant: float
) -> None:
    center = (3.0, -2.0)
    affine = Affine(*(numbers(value) for value in (angle, x, y, scale, slant, -slant / 2, *center)))
    turn = torch.tensor([[1, 0], [0, 1]]).double()
    c, s = numbers(angle).cos().item(), numbers(angle).sin().item()
    turn = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    shears = torch.tensor([[1, 0], [slant / 2, 1]]).double() @ torch.tensor([[1, -slant], [0, 1]]).double()
    forward = scale * turn @ shears
    point = numbers(1.5, 4.0)
    moved = forward @ (point - numbers(*center)) + numbers(*center) + numbers(x, y)
    back = source_matrix(affine)[0] @ torch.cat([moved, numbers(1)])
    torch.testing.assert_close(back, point, atol=1e-6, rtol=1e-6)


def test_what_is_off_is_not_drawn() -> None:
    drawn = draw_affine(torch.arange(50), AugmentConfig(rotation=10), 0, 0, 8, 8)
    still = Affine.identity(drawn.angle)
    assert all(torch.equal(a, b) for a, b in zip(drawn[1:], still[1:], strict=True))
    assert len(drawn.angle.unique()) == 50
