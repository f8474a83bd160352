"""Variational autoencoder (Kingma & Welling 2014)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from scaledl.config.schema import VAEConfig
from scaledl.models.accepts import check_accepts
from scaledl.models.activations import activation_gain
from scaledl.models.autoencoder import Autoencoder
from scaledl.models.coder import check_coder
from scaledl.models.init import initialise_, kaiming_normal_
from scaledl.runtime.signature import Inputs, Outputs

LOG_VARIANCES = (-30.0, 20.0)
NUM_LATENT = "num_latent"  # what a traced module is told of the one that it was


class VAE(Autoencoder):
    """Squeezes an input into a normal distribution of `latent` numbers.

    `forward`, `encode` and `decode` are those of an autoencoder and go by the mean, in training as well: a model that
    is exported or traced draws nothing. What is trained is `training_outputs`, where a task finds it:

    - output: [B, *shape], made of one draw from the distribution;
    - kl: [B], how far each distribution is from N(0, 1), in nats, summed over the latent numbers.

    The loss of the paper is the negative log likelihood of `x` plus `kl`, both summed over a sample: for a normal
    likelihood of variance one, half the summed squared error. Means of pixels need `kl` divided by their number.
    New inputs come from `decode(torch.randn(B, latent))`.
    """

    def __init__(self, config: VAEConfig, inputs: Inputs) -> None:
        super().__init__(config, inputs, 2 * config.latent)
        self.num_latent = config.latent

    def encode(self, x: Tensor) -> Tensor:
        """[B, *shape] -> the means [B, latent]."""
        return torch.narrow(self.latent(torch.flatten(self.encoder(x), 1)), 1, 0, self.num_latent)

    def distribution(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, *shape] -> means and logarithms of the variances, each [B, latent]."""
        numbers: Tensor = self.latent(torch.flatten(self.encoder(x), 1))
        return numbers[:, : self.num_latent], numbers[:, self.num_latent :].clamp(*LOG_VARIANCES)

    def training_outputs(self, x: Tensor) -> dict[str, Tensor]:
        """What a training step needs; one draw from torch's global generator."""
        mean, log_variance = self.distribution(x)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return {"output": self.decode(z), "kl": kl_divergence(mean, log_variance)}


TrainingOutputs = Callable[[Tensor], dict[str, Tensor]]


def training_outputs_of(module: nn.Module) -> TrainingOutputs | None:
    """What a training step of this module calls in place of `forward`: x -> output and kl, as `VAE` says; None of a
    module that draws nothing.

    A module traced to be fake-quantized has no methods left, but its layers: there the draw takes place where the
    layer of the latent numbers gives them.
    """
    own: TrainingOutputs | None = getattr(module, "training_outputs", None)
    if own is not None or not isinstance(module, fx.GraphModule) or NUM_LATENT not in module.meta:
        return own
    return partial(_traced_outputs, module)


def _traced_outputs(module: fx.GraphModule, x: Tensor) -> dict[str, Tensor]:
    count, found = module.meta[NUM_LATENT], {}

    def draw(layer: nn.Module, arguments: Any, numbers: Tensor) -> Tensor:
        mean, log_variance = numbers[:, :count], numbers[:, count:].clamp(*LOG_VARIANCES)
        found["kl"] = kl_divergence(mean, log_variance)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return torch.cat([z, numbers[:, count:]], 1)

    with module.get_submodule("latent").register_forward_hook(draw):
        return {"output": module(x), **found}


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) in nats: both [B, D] -> [B] (appendix B of the paper)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


def build_vae(config: VAEConfig, inputs: Inputs, outputs: Outputs) -> nn.Module:
    """A VAE for images, series or rows of numbers. Raises UsageError for other inputs, and for categories."""
    check_accepts("vae", inputs, outputs)
    check_coder(config, inputs)
    model = VAE(config, inputs)
    kaiming_normal_(model, activation_gain(config.activation), inputs)
    return initialise_(model, config, inputs)
