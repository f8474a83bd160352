"""Autoencoders: sizes, the numbers in between, the VAE's distribution, and that both learn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.distributions import Normal
from torch.distributions import kl_divergence as torchs_kl

from scaledl.config.schema import AutoencoderConfig, VAEConfig
from scaledl.models.structure import new_model
from scaledl.models.vae import kl_divergence
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.unit

SECTIONS = {"autoencoder": AutoencoderConfig, "vae": VAEConfig}
SHAPES = [(1, 8, 8), (3, 7, 13), (1, 1, 1), (2, 21), (1, 1), (6,)]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def make(family: str, shape: tuple[int, ...], **keys: Any) -> nn.Module:
    config = SECTIONS[family](**{"family": family, "channels": [4, 8], "hidden": [8], "latent": 3, **keys})
    return new_model(config, Inputs.of(shape), Outputs(1, "input"), seed=0).module


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", SECTIONS)
def test_any_size_comes_out_as_it_went_in(family: str, shape: tuple[int, ...]) -> None:
    module = make(family, shape).eval()
    x = torch.randn(4, *shape)
    z = module.encode(x)
    assert z.shape == (4, 3)
    assert module.decode(z).shape == x.shape
    assert torch.equal(module(x), module.decode(module.encode(x)))


def test_a_linear_one_finds_the_principal_components() -> None:
    """Bourlard & Kamp 1988: without activations, the best that k numbers can do is the first k components."""
    x = torch.randn(256, 6) * torch.tensor([3.0, 2.0, 1.0, 0.3, 0.2, 0.1])
    x = x - x.mean(0)
    module = make("autoencoder", (6,), hidden=[], latent=3)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    for _ in range(250):
        loss = (module(x) - x).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    lost = torch.linalg.svdvals(x)[3:].square().sum() / 256
    assert float(loss.detach()) == pytest.approx(float(lost), rel=0.02)


def test_kl_is_torchs() -> None:
    mean, log_variance = torch.randn(5, 3), torch.randn(5, 3)
    expected = torchs_kl(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_divergence(mean, log_variance), expected)
    assert not kl_divergence(torch.zeros(2, 3), torch.zeros(2, 3)).any()


def test_vae_draws_for_training_outputs_alone() -> None:
    module = make("vae", (1, 8, 8), norm="none").train()
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(module(x), module(x))
    first, second = module.training_outputs(x), module.training_outputs(x)
    assert {name: tuple(value.shape) for name, value in first.items()} == {"output": (4, 1, 8, 8), "kl": (4,)}
    assert not torch.equal(first["output"], second["output"])
    assert torch.equal(first["kl"], second["kl"])
    mean, _ = module.distribution(x)
    assert torch.equal(mean, module.encode(x))
    torch.manual_seed(5)
    expected = module.training_outputs(x)["output"]
    torch.manual_seed(5)
    assert torch.equal(module.training_outputs(x)["output"], expected)


def test_vae_draws_are_of_the_distribution() -> None:
    module = make("vae", (6,), hidden=[])
    module.decoder, module.head = nn.Sequential(), nn.Identity()
    x = torch.randn(1, 6).expand(20_000, 6)
    with torch.no_grad():
        mean, log_variance = module.distribution(x)
        z = module.training_outputs(x)["output"]
    torch.testing.assert_close(z.mean(0), mean[0], atol=0.03, rtol=0.03)
    torch.testing.assert_close(z.var(0), log_variance[0].exp(), atol=0.03, rtol=0.03)


def test_an_impossible_variance_stays_finite() -> None:
    module = make("vae", (6,), hidden=[])
    nn.init.constant_(module.latent.bias, 1000.0)
    result = module.training_outputs(torch.randn(4, 6))
    assert all(value.isfinite().all() for value in result.values())


@pytest.mark.parametrize("family", SECTIONS)
def test_digits_are_put_together_better_than_by_their_mean(family: str) -> None:
    x = torch.tensor(load_digits().images[:300, None], dtype=torch.float32) / 8 - 1
    module = make(family, (1, 8, 8), channels=[16, 32], latent=16, norm="none").train()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(120):
        result = module.training_outputs(x) if family == "vae" else {"output": module(x)}
        loss = 0.5 * (result["output"] - x).square().sum((1, 2, 3)) + 0.1 * result.get("kl", torch.zeros(300))
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    with torch.no_grad():
        error = float((module.eval()(x) - x).square().mean())
    assert error < 0.5 * float((x - x.mean(0)).square().mean())
