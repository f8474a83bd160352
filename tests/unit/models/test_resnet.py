import pytest
import torch
import torchvision
from torch import nn

from scaledl.config.schema import ResNetConfig
from scaledl.models.resnet import BasicBlock, Bottleneck, build_resnet, zero_init_residual_
from scaledl.runtime.jit import script
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.unit


def build(
    depth: int, width: int | None = None, in_shape: tuple[int, int, int] = (3, 32, 32), num_classes: int = 10
) -> nn.Module:
    return build_resnet(
        ResNetConfig(family="resnet", depth=depth, width=width), Inputs.of(in_shape), Outputs(num_classes)
    )


def num_params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def randomise_statistics_(model: nn.Module) -> None:
    """A fresh BatchNorm is the identity in eval mode, which would hide a wrong one."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("depth", "params"),
    # The paper's table 6 gives 0.27M, 0.46M, 0.66M and 0.85M with parameter-free shortcuts;
    # the two projections add 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64 = 2,752.
    [(8, 75_290), (14, 172_506), (20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018)],
)
def test_cifar_style_has_the_papers_size(depth: int, params: int) -> None:
    model = build(depth)
    assert num_params(model) == params + 2752
    convs_and_linears = sum(
        isinstance(module, nn.Conv2d | nn.Linear) for name, module in model.named_modules() if "shortcut" not in name
    )
    assert convs_and_linears == depth


@pytest.mark.parametrize(("depth", "params"), [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032)])
def test_imagenet_style_has_torchvisions_size(depth: int, params: int) -> None:
    with torch.device("meta"):
        assert num_params(build(depth, num_classes=1000)) == params


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvisions_weights_give_torchvisions_outputs(depth: int) -> None:
    reference = getattr(torchvision.models, f"resnet{depth}")(weights=None, num_classes=7)
    randomise_statistics_(reference)
    model = build(depth, num_classes=7)
    ours, theirs = model.state_dict(), reference.state_dict()
    model.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    x = torch.randn(2, 3, 65, 48)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), reference.eval()(x))
        # One step of statistics as well.
        assert torch.equal(model.train()(x), reference.train()(x))
    assert all(torch.equal(a, b) for a, b in zip(ours.values(), theirs.values(), strict=True))


@pytest.mark.parametrize("depth", [8, 20, 18, 34, 50])
@pytest.mark.parametrize("in_shape", [(1, 8, 8), (1, 28, 28), (3, 33, 17), (2, 1, 1), (5, 3, 40)])
def test_any_channels_and_size_run_scripted_as_eager(depth: int, in_shape: tuple[int, int, int]) -> None:
    model = build(depth, 4, in_shape)
    randomise_statistics_(model)
    model.eval()
    x = torch.randn(2, *in_shape)
    with torch.no_grad():
        expected = model(x)
        assert expected.shape == (2, 10)
        assert expected.isfinite().all()
        assert torch.equal(script(model)(x), expected)


@pytest.mark.parametrize("depth", [8, 18, 50])
def test_width_1_trains(depth: int) -> None:
    model = build(depth, 1, (1, 8, 8), 2)
    loss = nn.functional.cross_entropy(model(torch.randn(4, 1, 8, 8)), torch.tensor([0, 1, 0, 1]))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_width_scales_every_stage() -> None:
    def channels(width: int | None) -> list[int]:
        return [module.out_channels for module in build(8, width).modules() if isinstance(module, nn.Conv2d)]

    assert [2 * value for value in channels(8)] == channels(16) == channels(None)


@pytest.mark.parametrize(("depth", "expected"), [(8, 1 + 3 * 2), (50, 1 + 16 * 3)])
def test_every_relu_is_a_module_of_its_own_used_once_and_not_in_place(depth: int, expected: int) -> None:
    model = build(depth, 2)
    calls: list[nn.Module] = []
    relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    for relu in relus:
        relu.register_forward_hook(lambda module, *_: calls.append(module))
    model.eval()(torch.randn(1, 3, 32, 32))
    assert len(relus) == len(calls) == len(set(calls)) == expected
    assert not any(relu.inplace for relu in relus)


def test_torch_fx_traces_it() -> None:
    model = build(8).eval()
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))


def test_zero_init_makes_every_block_its_shortcut() -> None:
    for depth in (8, 50):
        model = build(depth, 4).train()
        zero_init_residual_(model)
        blocks = [module for module in model.modules() if isinstance(module, BasicBlock | Bottleneck)]
        for block in blocks:
            x = torch.randn(4, block.conv1.in_channels, 6, 6)
            assert torch.equal(block(x), torch.relu(block.shortcut(x)))


def test_signal_keeps_its_scale_at_the_start() -> None:
    model = build(56, in_shape=(1, 16, 16)).train()
    out = model(torch.randn(32, 1, 16, 16))
    assert 0.01 < out.std().item() < 100
