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


ROWS = Inputs("table", (4,), categories=(3, 900))


def with_categories(**keys: int) -> nn.Module:
    return build_mlp(MLPConfig(family="mlp", hidden=[8], **keys), ROWS, Outputs(3)).eval()


def test_categories_become_vectors_beside_the_numbers() -> None:
    model = with_categories()
    x = torch.tensor([[0.5, -1.0, 2.0, 899.0], [0.1, 0.2, 0.0, 0.0]])
    few, many = model.columns.vectors
    assert (few.weight.shape, many.weight.shape) == ((3, 2), (900, 50))
    expected = torch.cat([x[:, :2], few.weight[[2, 0]], many.weight[[899, 0]]], 1)
    assert torch.equal(model.columns(x), expected)
    assert model.hidden[0].in_features == 2 + 2 + 50
    assert torch.equal(script(model)(x), model(x))


def test_the_size_of_vectors_is_a_key() -> None:
    assert with_categories(embedding=7).hidden[0].in_features == 2 + 7 + 7


def test_a_table_of_nothing_but_categories() -> None:
    inputs = Inputs("table", (2,), categories=(5, 5))
    model = build_mlp(MLPConfig(family="mlp", hidden=[]), inputs, Outputs(3))
    assert model(inputs.example(4)).shape == (4, 3)
    assert model.head.in_features == 3 + 3


def test_each_value_of_a_category_learns_its_own() -> None:
    """What no line through the ids can tell apart."""
    inputs = Inputs("table", (1,), categories=(6,))
    model = build_mlp(MLPConfig(family="mlp", hidden=[]), inputs, Outputs(2))
    x, y = torch.arange(6.0).unsqueeze(1), torch.tensor([0, 1, 0, 1, 1, 0])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(model(x).argmax(1), y)
