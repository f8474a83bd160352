"""Losses by name: pure functions from outputs and targets to a value for each element, and their mean.

Each takes (outputs, targets, config, weights of classes or None) and keeps the shape of what it compares, without the
dimension of classes, which is the second: [B, K, ...] against int64 [B, ...] gives [B, ...]. Where a target is IGNORED
the value is 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from scaledl.config.imported import import_named
from scaledl.config.registry import LOSSES
from scaledl.config.schema import TaskConfig
from scaledl.data.arrays import IGNORED
from scaledl.runtime.tokens import IMPOSSIBLE

LossFn = Callable[[Tensor, Tensor, TaskConfig, Tensor | None], Tensor]


def loss_fn(config: TaskConfig) -> LossFn:
    """The loss that a config names, else the task's own. Raises UsageError when one's own cannot be imported."""
    name = config.loss or config.traits.losses[0]
    if name in LOSSES:
        found: LossFn = LOSSES.resolve(name)
        return found
    return _own(name)


def _own(name: str) -> LossFn:
    function = import_named(name, f"task.loss: {name!r}")
    return lambda outputs, targets, config, weight: function(outputs, targets)


def mean_over_samples(values: Tensor, counted: Tensor | None = None) -> Tensor:
    """The mean of each sample over what is counted in it, and of these the mean: a scalar.

    So every sample weighs the same, however much of it is counted, and the mean of a batch does not depend on how it
    is cut over ranks and micro-batches. A scalar stays as it is.

    Args:
        values: [B, ...].
        counted: bool [B, ...]; all, where it is left out.
    """
    if values.ndim == 0 or counted is None:
        return values.mean()
    values, share = values.flatten(1), counted.flatten(1).to(values.dtype)
    return ((values * share).sum(1) / share.sum(1).clamp(min=1)).mean()


def cross_entropy(outputs: Tensor, targets: Tensor, config: TaskConfig, weight: Tensor | None = None) -> Tensor:
    """Logits [B, K, ...] against classes int64 [B, ...] or their shares float32 [B, K, ...] -> [B, ...].

    Label smoothing (Szegedy et al. 2016) as the config says, among the classes that are possible; `weight` [K]
    multiplies the value of each class.
    """
    outputs = outputs.float()
    if config.label_smoothing and may_be_masked(outputs):
        return _smoothed_among_possible(outputs, targets, config.label_smoothing, weight)
    return F.cross_entropy(
        outputs,
        targets,
        weight,
        ignore_index=IGNORED,
        reduction="none",
        label_smoothing=config.label_smoothing,
    )


def may_be_masked(outputs: Tensor) -> bool:
    """Whether a model masks classes: by logits of about `IMPOSSIBLE`, or of minus infinity. Of outputs on a GPU it may:
    to look at them would be to wait for them, in every step."""
    return outputs.device.type != "cpu" or bool((outputs < IMPOSSIBLE / 2).any())


def _smoothed_among_possible(outputs: Tensor, targets: Tensor, smoothing: float, weight: Tensor | None) -> Tensor:
    """Torch's own smoothing gives a masked class its share too, which adds thousands to the loss."""
    possible = outputs >= IMPOSSIBLE / 2
    outputs = outputs.clamp(min=IMPOSSIBLE)
    hard = F.cross_entropy(outputs, targets, weight, ignore_index=IGNORED, reduction="none")
    values = outputs.log_softmax(1) * possible
    if weight is not None:
        values = values * weight.view(-1, *[1] * (outputs.ndim - 2))
    even = -values.sum(1) / possible.sum(1).clamp(min=1)
    if not targets.is_floating_point():
        even = even * (targets != IGNORED)
    return (1 - smoothing) * hard + smoothing * even


def focal(outputs: Tensor, targets: Tensor, config: TaskConfig, weight: Tensor | None = None) -> Tensor:
    """(1 - p)^gamma times the cross entropy, p the probability of the truth (Lin et al. 2017).

    Of one class of several as `cross_entropy`, where shares of classes each have their own p; of several labels,
    float32 [B, K] of 0 and 1 against logits of the same shape, as `bce`.
    """
    outputs = outputs.float()
    if config.traits.scale == "labels":
        missing = torch.sigmoid(torch.where(targets > 0.5, -outputs, outputs))
        return missing**config.focal_gamma * bce(outputs, targets, config, weight)
    if targets.is_floating_point() or config.label_smoothing:
        possible = outputs >= IMPOSSIBLE / 2
        log_p = F.log_softmax(outputs.clamp(min=IMPOSSIBLE), 1)
        shares = _shares(targets, possible, config.label_smoothing)
        values = shares * (1 - log_p.exp()) ** config.focal_gamma * log_p
        return -(values if weight is None else values * weight.view(-1, *[1] * (values.ndim - 2))).sum(1)
    values = F.cross_entropy(outputs, targets, ignore_index=IGNORED, reduction="none")
    scale = 1.0 if weight is None else weight[targets.clamp(min=0)]
    return (1 - torch.exp(-values)) ** config.focal_gamma * values * scale


def _shares(targets: Tensor, possible: Tensor, smoothing: float) -> Tensor:
    """Classes int64 [B, ...] or their shares [B, K, ...] -> shares [B, K, ...], part of them of all `possible` classes
    (bool, of the same shape) alike; 0 where the target is IGNORED."""
    if not targets.is_floating_point():
        counted = (targets != IGNORED).unsqueeze(1)
        targets = F.one_hot(targets.clamp(min=0), possible.shape[1]).movedim(-1, 1) * counted.float()
    even = possible / possible.sum(1, keepdim=True).clamp(min=1)
    return (1 - smoothing) * targets + smoothing * even * targets.sum(1, keepdim=True)


def bce(outputs: Tensor, targets: Tensor, config: TaskConfig, weight: Tensor | None = None) -> Tensor:
    """Binary cross entropy of logits against 0..1, both [B, ...]; `weight` [K] is for where each label is there."""
    del config
    return F.binary_cross_entropy_with_logits(outputs.float(), targets, reduction="none", pos_weight=weight)


def mse(outputs: Tensor, targets: Tensor, config: TaskConfig, weight: Tensor | None = None) -> Tensor:
    """Squared difference, both [B, ...]."""
    del config, weight
    return F.mse_loss(outputs.float(), targets, reduction="none")


def mae(outputs: Tensor, targets: Tensor, config: TaskConfig, weight: Tensor | None = None) -> Tensor:
    """Absolute difference, both [B, ...]."""
    del config, weight
    return F.l1_loss(outputs.float(), targets, reduction="none")


def huber(outputs: Tensor, targets: Tensor, config: TaskConfig, weight: Tensor | None = None) -> Tensor:
    """Half the squared difference up to `huber_delta`, beyond it a line of that slope; both [B, ...]."""
    del weight
    return F.huber_loss(outputs.float(), targets, reduction="none", delta=config.huber_delta)
