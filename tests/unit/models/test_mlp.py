import pytest
import torch
from torch import nn

from scaledl.config.schema import MLPConfig
from scaledl.models.mlp import build_mlp
from scaledl.runtime.jit import script
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.unit


def build(hidden: list[int], in_shape: tuple[int, int, int] = (1, 8, 8), num_classes: int = 10) -> nn.Module:
    return build_mlp(MLPConfig(family="mlp", hidden=hidden), Inputs.of(in_shape), Outputs(num_classes))


@pytest.mark.parametrize(
    ("hidden", "in_shape", "params"),
    [
        ([128], (1, 28, 28), 784 * 128 + 128 + 128 * 10 + 10),
        ([], (1, 8, 8), 64 * 10 + 10),
        ([5, 7], (3, 2, 4), 24 * 5 + 5 + 5 * 7 + 7 + 7 * 10 + 10),
        ([1], (1, 1, 1), 2 + 20),
    ],
)
def test_shapes_and_parameters(hidden: list[int], in_shape: tuple[int, int, int], params: int) -> None:
    model = build(hidden, in_shape)
    assert sum(p.numel() for p in model.parameters()) == params
    assert model(torch.randn(4, *in_shape)).shape == (4, 10)


def test_scripted_equals_eager_also_on_channels_last() -> None:
    model = build([16, 8], (3, 4, 5)).eval()
    x = torch.randn(6, 3, 4, 5)
    expected = model(x)
    scripted = script(model)
    assert torch.equal(scripted(x), expected)
    assert torch.equal(scripted(x.contiguous(memory_format=torch.channels_last)), expected)


def test_forward_is_the_textbook_formula() -> None:
    model = build([16])
    x = torch.randn(3, 1, 8, 8)
    w1, b1, w2, b2 = model.parameters()
    expected = torch.relu(x.reshape(3, 64) @ w1.T + b1) @ w2.T + b2
    torch.testing.assert_close(model(x), expected)


def test_signal_keeps_its_scale_through_many_layers() -> None:
    torch.manual_seed(0)
    model = build([256] * 20, (1, 16, 16))
    assert isinstance(model.get_submodule("hidden"), nn.Sequential)
    features = model.get_submodule("hidden")(torch.randn(64, 256))
    assert 0.1 < features.pow(2).mean().item() < 10
