"""Every registered optimizer: that it learns, what it decays, that its state saves and loads to the last bit."""

import io

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from scaledl.config.registry import OPTIMIZERS
from scaledl.config.schema import ModelConfig, OptimizerConfig
from scaledl.errors import UsageError
from scaledl.models.structure import new_model
from scaledl.optim.optimizers import build_optimizer, weights
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.unit

RATES = {"sgd": 0.1, "momentum": 0.1, "nesterov": 0.1, "adagrad": 0.1, "adadelta": 1.0, "adagrad_da": 0.1, "ftrl": 0.1}
RATE = 0.02


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def samples():
    """Three clouds in six dimensions."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(96) % 3
    return torch.randn(96, 6, generator=generator) + 2 * nn.functional.one_hot(y, 6).float(), y


def train(model, optimizer, steps):
    x, y = samples()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def config_of(name, **more):
    return OptimizerConfig(name=name, lr=RATES.get(name, RATE), **more)


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_it_learns(name):
    model = small_model()
    losses = train(model, build_optimizer(model, config_of(name)), 60)
    assert losses[0] > 0.9
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_its_state_goes_on_to_the_last_bit(name):
    model, other = small_model(), small_model()
    whole = build_optimizer(model, config_of(name))
    train(model, whole, 5)
    file = io.BytesIO()
    torch.save([model.state_dict(), whole.state_dict()], file)
    weights_then, state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    other.load_state_dict(weights_then)
    resumed = build_optimizer(other, config_of(name))
    resumed.load_state_dict(state)
    assert train(model, whole, 5) == train(other, resumed, 5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", [name for name, keys in OptimizerConfig.takes.items() if "weight_decay" in keys])
def test_only_matrices_decay(name):
    optimizer = build_optimizer(small_model(), OptimizerConfig(name=name, weight_decay=0.1))
    for group in optimizer.param_groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] > 0}


@pytest.mark.parametrize("name", ["ftrl", "adagrad_da"])
def test_l1_is_for_matrices_and_makes_zeros(name):
    model = small_model()
    optimizer = build_optimizer(model, config_of(name, l1=0.5 if name == "ftrl" else 0.05))
    assert [(group["decays"], group["l1"] > 0) for group in optimizer.param_groups] == [(True, True), (False, False)]
    assert train(model, optimizer, 60)[-1] < 0.5
    zeros = [(weight == 0).float().mean() for weight in weights(model)]
    assert all(0.2 < share < 1 for share in zeros)
    assert all(p.count_nonzero() == p.numel() for p in model[1].parameters())


def test_embeddings_and_what_a_module_names_do_not_decay():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.place = nn.Parameter(torch.zeros(1, 4, 8))
            self.mixing = nn.Parameter(torch.zeros(1, 4, 8))
            self.words = nn.Embedding(10, 8)
            self.out = nn.Linear(8, 10)
            self.out.weight = self.words.weight

        def no_weight_decay(self):
            return {"place"}

    model = nn.Sequential(Positions(), nn.Linear(10, 2))
    assert [id(p) for p in weights(model)] == [id(model[0].mixing), id(model[1].weight)]


@pytest.mark.parametrize(
    ("family", "inputs"),
    [
        ({"family": "vit", "width": 16, "layers": 1, "heads": 2, "patch_size": 4}, Inputs("image", (1, 8, 8))),
        ({"family": "transformer", "width": 16, "layers": 1, "heads": 2}, Inputs("text", (12,), vocabulary=9)),
    ],
)
def test_of_the_own_families_only_matrices_and_filters_decay(family, inputs):
    config = TypeAdapter(ModelConfig).validate_python({"pooling": "cls", "positions": "learned", **family})
    module = new_model(config, inputs, Outputs(3, "vector"), 0).module
    decaying = {id(weight) for weight in weights(module)}
    found = {name for name, parameter in module.named_parameters() if id(parameter) in decaying}
    matrices = {f"{name}.weight" for name, part in module.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)}
    assert found == matrices


def test_frozen_parameters_are_left_out():
    model = small_model()
    model[0].requires_grad_(False)
    parameters = [p for g in build_optimizer(model, OptimizerConfig()).param_groups for p in g["params"]]
    assert {id(p) for p in parameters} == {id(p) for p in model.parameters() if p.requires_grad}


def test_parameters_may_have_shares_of_the_rate():
    optimizer = build_optimizer(
        small_model(), OptimizerConfig(name="sgd"), lambda name: 0.5 if name.startswith("0.") else 1.0
    )
    found = [(group["decays"], group.get("lr_scale", 1.0), len(group["params"])) for group in optimizer.param_groups]
    assert found == [(True, 0.5, 1), (True, 1.0, 1), (False, 1.0, 3)]


def test_muon_has_adamw_for_what_does_not_decay():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 4))
    optimizer = build_optimizer(model, OptimizerConfig(name="muon"))
    model(torch.randn(2, 2, 4, 4)).square().sum().backward()
    optimizer.step()
    matrices = {name for name, p in model.named_parameters() if "momentum_buffer" in optimizer.state[p]}
    assert matrices == {"0.weight", "2.weight"}
    assert all("exp_avg" in optimizer.state[p] for name, p in model.named_parameters() if name not in matrices)


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"timm is not installed; install it with: pip install 'scaledl\[models\]'"):
        build_optimizer(small_model(), OptimizerConfig(name="lion"))


@pytest.mark.parametrize(
    ("config", "plain"),
    [
        ({"name": "sgd"}, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, foreach=False)),
        ({"name": "nesterov"}, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, foreach=False)),
        ({"name": "momentum"}, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, foreach=False)),
        ({"name": "sgd", "nesterov": False}, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, foreach=False)),
        ({"name": "sgd", "momentum": 0.0}, lambda p: torch.optim.SGD(p, lr=0.05, foreach=False)),
        ({"name": "adam"}, lambda p: torch.optim.Adam(p, lr=0.05, foreach=False)),
        ({"name": "adamw"}, lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.0, foreach=False)),
        ({"name": "amsgrad"}, lambda p: torch.optim.Adam(p, lr=0.05, amsgrad=True, foreach=False)),
        ({"name": "nadam"}, lambda p: torch.optim.NAdam(p, lr=0.05, foreach=False)),
        ({"name": "adagrad"}, lambda p: torch.optim.Adagrad(p, lr=0.05, foreach=False)),
        ({"name": "adadelta"}, lambda p: torch.optim.Adadelta(p, lr=0.05, foreach=False)),
        ({"name": "rmsprop"}, lambda p: torch.optim.RMSprop(p, lr=0.05, foreach=False)),
        ({"name": "rmsprop", "rho": 0.9}, lambda p: torch.optim.RMSprop(p, lr=0.05, alpha=0.9, foreach=False)),
    ],
)
def test_steps_equal_plain_torch(config, plain):
    models = [small_model(), small_model()]
    config = OptimizerConfig(lr=0.05, weight_decay=0.0, **config)
    for model, optimizer in zip(
        models, [build_optimizer(models[0], config), plain(models[1].parameters())], strict=True
    ):
        train(model, optimizer, 5)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
