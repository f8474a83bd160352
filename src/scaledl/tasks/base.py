"""What every task shares: the thin adapter between a task's `step` and Lightning's hooks."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scaledl.data import Batch
from scaledl.errors import ScaledlError
from scaledl.optim.schedules import Schedule

Auxiliary = Callable[[Batch, dict[str, Tensor]], Tensor]


def _own_loss_only(batch: Batch, result: dict[str, Tensor]) -> Tensor:
    return result["loss"]


class NonFiniteLossError(ScaledlError):
    """The loss became NaN or infinite; the optimizer did not step on it."""


class Task(pl.LightningModule):
    """A model with a loss and metrics. Subclasses implement `step` and `metrics`.

    `auxiliary` turns the result of a training step into the loss to minimise: the task's own by default.
    Per-step losses collect in `losses` (optimizer step by optimizer step, detached) until someone takes them.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.losses: list[Tensor] = []
        self.val_metrics: dict[str, float] = {}
        self.channels_last = False
        self.accumulate = 1
        self.batch_size = 1
        self.train_samples = 1
        self.lr = 0.0
        self.schedule: Schedule = lambda step: 1.0
        self.peak_lr = 0.0
        self.optimizer_fn: Callable[[nn.Module], Optimizer] | None = None
        self.auxiliary: Auxiliary = _own_loss_only
        self._window: list[Tensor] = []
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning sets this name some forty times a step, each time through nn.Module's slow path.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One forward pass: batch -> {"loss": scalar, "output": [B, ...]}."""
        raise NotImplementedError

    def metrics(self, result: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Sums over the samples of a batch, by metric name."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Optimizer:
        assert self.optimizer_fn is not None
        return self.optimizer_fn(self.model)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        if device.type != "cpu":
            batch = Batch(*(field.to(device, non_blocking=True) for field in batch))
        return batch if self.channels_last else batch._replace(x=batch.x.contiguous())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.auxiliary(batch, self.step(batch))
        if self.accumulate > 1:
            loss = loss * self._window_weight(len(batch.y), batch_idx)
        if not math.isfinite(loss.item()):
            raise NonFiniteLossError(self._non_finite(loss.item(), batch))
        self._window.append(loss.detach())
        return loss

    def _window_weight(self, num_samples: int, batch_idx: int) -> float:
        # Lightning divides by `accumulate`; an uneven tail must still weigh every sample the same.
        start = batch_idx // self.accumulate * self.batch_size
        window = min(self.batch_size, self.train_samples - start)
        return self.accumulate * num_samples / window

    def _non_finite(self, loss: float, batch: Batch) -> str:
        ids = batch.ids.tolist()
        shown = ", ".join(map(str, ids[:16])) + (f", … ({len(ids)} in all)" if len(ids) > 16 else "")
        return (
            f"the loss became {loss} at step {self.global_step + 1} (epoch {self.current_epoch + 1}, "
            f"learning rate {self.lr:.3g}); sample ids: {shown}. The optimizer did not step on it; "
            "try a lower optimizer.lr or trainer.gradient_clip"
        )

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        self.lr = self.peak_lr * self.schedule(self.trainer.global_step)
        for group in optimizer.param_groups:
            group["lr"] = self.lr
        optimizer.step(closure=optimizer_closure)
        window = self._window
        self.losses.append(window[0] if self.accumulate == 1 else torch.stack(window).sum() / self.accumulate)
        window.clear()

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        # Lightning's own refuses fused optimizers under bf16, which has no gradient scaler to be in the way.
        if gradient_clip_val:
            nn.utils.clip_grad_norm_(self.model.parameters(), gradient_clip_val)

    def take_losses(self) -> list[float]:
        """The losses of the optimizer steps since the last call."""
        losses = torch.stack(self.losses).tolist() if self.losses else []
        self.losses.clear()
        return losses

    def on_validation_epoch_start(self) -> None:
        self._sums, self._count = {}, 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        for name, value in self.metrics(self.step(batch), batch).items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += len(batch.y)

    def on_validation_epoch_end(self) -> None:
        self.val_metrics = {f"val_{name}": float(value) / self._count for name, value in self._sums.items()}
        loss = self.val_metrics.get("val_loss", 0.0)
        if not math.isfinite(loss):  # the last step of all can ruin the weights without a training loss to show it
            raise NonFiniteLossError(
                f"the validation loss became {loss} after step {self.global_step} (epoch {self.current_epoch + 1}, "
                f"learning rate {self.lr:.3g}); try a lower optimizer.lr or trainer.gradient_clip"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["val_metrics"] = self.val_metrics

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if not checkpoint["optimizer_states"]:
            raise LookupError("no state of the optimizer")
        self.val_metrics = checkpoint["val_metrics"]


# Lightning inspects this signature at every step; a stored one is found four times faster.
Task.training_step.__signature__ = inspect.signature(Task.training_step)  # type: ignore[attr-defined]
