"""A LightningModule of one's own as the model: it learns by its own steps, and is judged by the config's task.

Its `training_step`, `validation_step`, `configure_optimizers` and most hooks are called as Lightning would call them,
with batches (x, y). What training does around them stays ours: shares of ranks, accumulation, steps that are left out,
checkpoints. So its loss has to be the mean over the samples of a batch; what cannot be exact is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.optim import Optimizer

from scaledl.data import Batch
from scaledl.errors import UsageError
from scaledl.tasks.base import Task

_FORWARDED = (
    *("on_fit_start", "on_fit_end", "on_train_start", "on_train_end", "on_train_epoch_start", "on_train_epoch_end"),
    *("on_train_batch_start", "on_train_batch_end", "on_validation_start", "on_validation_end"),
    *("on_validation_epoch_start", "on_validation_epoch_end", "on_validation_batch_start", "on_validation_batch_end"),
    *("on_before_backward", "on_after_backward", "on_before_zero_grad", "on_before_optimizer_step"),
)
_REFUSED = (
    *("optimizer_step", "optimizer_zero_grad", "backward", "configure_gradient_clipping", "lr_scheduler_step"),
    *("train_dataloader", "val_dataloader", "test_dataloader", "configure_callbacks", "configure_model"),
    *("transfer_batch_to_device", "on_before_batch_transfer", "on_after_batch_transfer"),
    *("on_save_checkpoint", "on_load_checkpoint"),
)


def brings_steps(module: nn.Module) -> bool:
    """Whether it is a LightningModule that says itself how it learns."""
    return isinstance(module, pl.LightningModule) and is_overridden("training_step", module)


def with_own_steps(task: type[Task], module: pl.LightningModule) -> type[Task]:
    """`task`, whose training is that of `module`. Raises UsageError for what it overrides that training does itself."""
    name = type(module).__name__
    if refused := [hook for hook in _REFUSED if is_overridden(hook, module)]:
        raise UsageError(
            f"model.name: {name} overrides {', '.join(refused)}, which training does by itself; leave it out"
        )
    if not module.automatic_optimization:
        raise UsageError(f"model.name: {name} optimizes by hand; allowed: automatic_optimization = True")
    hooks = {hook: _forwarding(hook) for hook in _FORWARDED if is_overridden(hook, module)}
    return type(f"{task.__name__}Of{name}", (OwnSteps, task), hooks)


def _forwarding(hook: str) -> Callable[..., Any]:
    """The task's own hook and the module's; what this logs at the end of a validation still counts in it."""

    def call(self: OwnSteps, *args: Any, **kwargs: Any) -> Any:
        given = [pair(value) if isinstance(value, Batch) else value for value in args]
        ends = hook == "on_validation_epoch_end"
        found = self.ask(hook, *given, **kwargs) if ends else None
        getattr(super(type(self), self), hook)(*args, **kwargs)
        return found if ends else self.ask(hook, *given, **kwargs)

    return call


def pair(batch: Batch) -> tuple[Tensor, Tensor]:
    """As a LightningModule is used to it."""
    return batch.x, batch.y


class OwnSteps(Task):
    """What is put before a task when the model brings its own steps. `model` is that LightningModule."""

    _number = 0  # of the micro-batch in its epoch

    def ask(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the module; what it logs is taken."""
        module: Any = self.model
        module.__dict__["_current_fx_name"] = self.__dict__.get("_current_fx_name")
        with self._taking_logs(module):
            return getattr(module, name)(*args, **kwargs)

    @contextmanager
    def _taking_logs(self, module: Any) -> Iterator[None]:
        module.__dict__.update(log=self._take, log_dict=self._take_all)
        try:
            yield
        finally:
            for name in ("log", "log_dict"):
                module.__dict__.pop(name, None)

    def _take(self, name: str, value: Any, *_: Any, batch_size: int | None = None, **__: Any) -> None:
        if self.training:
            return  # the loss of every step is recorded anyway
        if callable(getattr(value, "compute", None)):
            self._metrics[name] = value
        else:
            count = self._samples if batch_size is None else batch_size
            total, weight = self._logged.get(name, (0.0, 0))
            self._logged[name] = total + float(value) * count, weight + count

    def _take_all(self, values: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        for name, value in values.items():
            self._take(name, value, *args, **kwargs)

    # Steps

    def step(self, batch: Batch) -> dict[str, Tensor]:
        if not self.training:
            return super().step(batch)
        found = self.ask("training_step", pair(batch), self._number)
        loss = found["loss"] if isinstance(found, Mapping) else found
        if not isinstance(loss, Tensor):
            raise UsageError(
                f"model.name: training_step of {type(self.model).__name__} gives a {type(found).__name__}; allowed: a "
                "loss, or a dict with one under 'loss'"
            )
        return _Lazy(loss, lambda: self.model(batch.x))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self._number = batch_idx
        return super().training_step(batch, batch_idx)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._logged: dict[str, tuple[float, int]] = {}
        self._metrics: dict[str, Any] = {}
        self._samples = 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self._samples = len(batch.ids)
        if self._samples and is_overridden("validation_step", self.model):
            self.ask("validation_step", pair(batch), batch_idx)

    def evaluated(self) -> dict[str, Tensor]:
        return {**super().evaluated(), **self._of_logs()}

    def _of_logs(self) -> dict[str, Tensor]:
        """Means over all samples of all ranks, which log the same names; `val_` before a name is ours to put there."""
        names = sorted(self._logged)
        sums = torch.tensor([self._logged[name] for name in names], dtype=torch.float64).reshape(-1, 2)
        sums = self.ranks.sum_(sums)
        found = {name: total / count for name, (total, count) in zip(names, sums.unbind(), strict=True)}
        for name, metric in self._metrics.items():
            found[name] = torch.as_tensor(metric.compute()).double()
            metric.reset()
        return {name.removeprefix("val_"): value for name, value in found.items()}

    # Updates

    def configure_optimizers(self) -> Any:
        if not is_overridden("configure_optimizers", self.model):
            return super().configure_optimizers()
        found = self.ask("configure_optimizers")
        optimizer = _only_optimizer(found, type(self.model).__name__)
        self._own_rates = True
        self._groups = [list(group["params"]) for group in optimizer.param_groups]
        return found

    _own_rates = False

    def set_rates(self, optimizer: Any) -> None:
        if self._own_rates:
            self.lr = float(optimizer.param_groups[0]["lr"])
        else:
            super().set_rates(optimizer)


class _Lazy(dict[str, Tensor]):
    """A result whose outputs are computed where somebody asks for them, as a distillation does."""

    def __init__(self, loss: Tensor, output_fn: Callable[[], Tensor]) -> None:
        super().__init__(loss=loss)
        self._output_fn = output_fn

    def __missing__(self, key: str) -> Tensor:
        if key != "output":
            raise KeyError(key)
        self[key] = self._output_fn()
        return self[key]


def _only_optimizer(found: Any, name: str) -> Optimizer:
    """The one optimizer in what `configure_optimizers` gave, in any form that Lightning knows."""
    first = found
    if isinstance(found, Mapping):
        first = found.get("optimizer")
    elif isinstance(found, list | tuple):
        first = found[0] if found else None
        if isinstance(first, list | tuple):
            first = first[0] if len(first) == 1 else None
        elif len(found) != 1:
            first = None
        if isinstance(first, Mapping):
            first = first.get("optimizer")
    if not isinstance(first, Optimizer):
        raise UsageError(
            f"model.name: configure_optimizers of {name} gives no single optimizer; allowed: one, with a scheduler"
        )
    return first


def release_trainers_(module: nn.Module) -> None:
    """Let go of the trainer, which copies and saved models would carry along."""
    for part in module.modules():
        if isinstance(part, pl.LightningModule):
            part._trainer = None
