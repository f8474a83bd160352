"""What learns, and how fast: frozen parameters, their thaw, and learning rates that fall layer by layer.

Everything that learns at some time is in the optimizer from the start, and `requires_grad` is switched: what is frozen
has no gradient, and no optimizer touches it. Which epoch it is says all, so there is nothing to save.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim import Optimizer

from scaledl.config.schema import ALL_BUT_HEAD, TransferConfig
from scaledl.console import get_console
from scaledl.errors import UsageError
from scaledl.models.ends import head_names
from scaledl.models.layers import layers_of
from scaledl.models.structure import Structure

ADAPTER = ".lora_"
NEVER = -1


@dataclass(frozen=True)
class Plan:
    """Of each parameter, by name: the epoch (from 0) from which it learns, or NEVER; its share of the learning rate."""

    begins: Mapping[str, int]
    scales: Mapping[str, float]

    def lr_scale(self, name: str) -> float:
        return self.scales[name]

    def learns(self, name: str, epoch: int) -> bool:
        return NEVER < self.begins[name] <= epoch

    def prepare_(self, module: nn.Module) -> None:
        """Before optimizer and strategy look: what never learns has no gradient."""
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(self.begins[name] != NEVER)

    def switch_(self, module: nn.Module, epoch: int, *, batchnorm_eval: bool) -> None:
        """At the start of an epoch: what learns in it. BatchNorm that does not may keep its statistics too."""
        for name, parameter in module.named_parameters():
            if self.begins[name] != NEVER:
                parameter.requires_grad_(self.learns(name, epoch))
        for name, part in module.named_modules() if batchnorm_eval else ():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.affine:
                part.train(self.learns(f"{name}.weight", epoch))

    @property
    def freezes(self) -> bool:
        return any(epoch != 0 for epoch in self.begins.values())

    @property
    def thaws(self) -> bool:
        return any(epoch > 0 for epoch in self.begins.values())


def plan_transfer(module: nn.Module, structure: Structure, transfer: TransferConfig) -> Plan:
    """What the config says for this module, whose adapters, if any, are in it already.

    Raises UsageError for a pattern that matches nothing, a head that is not known, or when nothing learns at first.
    """
    dimensions = {name: parameter.ndim for name, parameter in module.named_parameters()}
    if not (transfer.freeze or transfer.lora.rank or transfer.lr_decay < 1):
        return Plan(dict.fromkeys(dimensions, 0), dict.fromkeys(dimensions, 1.0))
    head = head_names(structure) & dimensions.keys()
    layers = layers_of(dimensions, head)
    begins = _begins(list(dimensions), layers, head, transfer)
    if 0 not in begins.values():
        raise UsageError("transfer.freeze: freezes every parameter, so nothing would learn; leave some out")
    return Plan(begins, dict(_scales(layers, transfer.lr_decay)))


def _begins(
    names: Sequence[str], layers: Sequence[Sequence[str]], head: frozenset[str], transfer: TransferConfig
) -> dict[str, int]:
    if transfer.lora.rank:
        return {name: 0 if ADAPTER in name or name in head else NEVER for name in names}
    frozen = matching(names, transfer.freeze, head, "transfer.freeze")
    begins = {name: NEVER if name in frozen else 0 for name in names}
    for epoch, patterns in sorted((int(key), patterns) for key, patterns in transfer.unfreeze.items()):
        for name in matching(names, patterns, head, f"transfer.unfreeze.{epoch}"):
            begins[name] = epoch if begins[name] == NEVER else begins[name]
    if transfer.unfreeze_every_n_epochs is not None:
        still = [layer for layer in reversed(layers) if any(name in frozen for name in layer)]
        for number, layer in enumerate(still, 1):
            later = number * transfer.unfreeze_every_n_epochs
            begins.update({name: later for name in layer if name in frozen})
    return begins


def matching(names: Sequence[str], patterns: Sequence[str], head: frozenset[str], key: str) -> set[str]:
    """The names that some pattern matches. Raises UsageError for a pattern without any."""
    found: set[str] = set()
    for pattern in patterns:
        if pattern == ALL_BUT_HEAD and not head:
            raise UsageError(f"{key}: got {ALL_BUT_HEAD}, and which layer is the head of this model is not known")
        mine = {name for name in names if fnmatchcase(name, pattern)}
        mine = set(names) - head if pattern == ALL_BUT_HEAD else mine
        if not mine:
            shown = ", ".join([*names[:3], "…", *names[-2:]] if len(names) > 5 else names)
            raise UsageError(f"{key}: got {pattern!r}, which matches no parameter; there are {shown}")
        found |= mine
    return found


def _scales(layers: Sequence[Sequence[str]], decay: float) -> Iterator[tuple[str, float]]:
    """1 in the last layer, and in each before it less (Howard & Ruder 2018)."""
    for behind, layer in enumerate(reversed(layers)):
        yield from ((name, decay**behind) for name in layer)


class Freezing(pl.Callback):
    """Switches at the start of every epoch what learns in it; BatchNorm that does not keeps its statistics too."""

    def __init__(self, plan: Plan, *, batchnorm_eval: bool, label: str) -> None:
        self.plan = plan
        self.batchnorm_eval = batchnorm_eval
        self.label = label
        self._learning = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._set(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._set(trainer, pl_module)

    def _set(self, trainer: pl.Trainer, task: Any) -> None:
        epoch, learning, count = trainer.current_epoch, 0, 0
        self.plan.switch_(task.model, epoch, batchnorm_eval=self.batchnorm_eval)
        for name, parameter in task.model.named_parameters():
            count += parameter.numel()
            learning += parameter.numel() * self.plan.learns(name, epoch)
        if self.plan.thaws:
            for optimizer in trainer.optimizers:
                fill_momentum_(optimizer)
        if learning != self._learning and task.ranks.is_main:
            get_console().info(f"{self.label}  epoch {epoch + 1}: {learning:,} of {count:,} parameters learn")
        self._learning = learning


def fill_momentum_(optimizer: Optimizer) -> None:
    """Begin SGD's momentum with zeros where there is none: the same step, which fused SGD cannot do for a part of its
    parameters alone."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group.get("fused") and group.get("momentum") else ():
            state = optimizer.state[parameter] if parameter.requires_grad else {}
            if parameter.requires_grad and state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
