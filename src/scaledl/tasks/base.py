"""What every task shares: the thin adapter between a task's `step` and Lightning's hooks."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scaledl.config.schema import TaskConfig
from scaledl.console import get_console
from scaledl.data import Batch, DataModule, DataSpec
from scaledl.distributed.gather import OutOfMemoryElsewhere
from scaledl.distributed.preemption import stop_flag
from scaledl.errors import ScaledlError
from scaledl.optim.sam import ascend_, go_back_
from scaledl.optim.schedules import Schedule
from scaledl.tasks.distillation import distance
from scaledl.tasks.judge import Judge

Auxiliary = Callable[[Batch, dict[str, Tensor]], Tensor]


def _own_loss_only(batch: Batch, result: dict[str, Tensor]) -> Tensor:
    return result["loss"]


def _no_penalty(loss: Tensor) -> Tensor:
    return loss


class NonFiniteLossError(ScaledlError):
    """The loss became NaN or infinite; the optimizer did not step on it."""


class OutOfMemory(ScaledlError):
    """A micro-batch did not fit into memory; all ranks stopped before the backward pass of the same step."""


class Task(Judge):
    """A judge whose model learns.

    `auxiliary` turns the result of a training step into the loss to minimise: the task's own by default.
    `penalised` adds to that loss what depends on the weights alone, for the whole batch.
    Per-step losses collect in `losses` (optimizer step by optimizer step, detached) until someone takes them.

    Of several ranks each minimises its share of the global mean, which weighs every sample the same: shares are summed
    over ranks. Before a backward pass all ranks tell each other of trouble, so that all do the same about it.
    """

    def __init__(self, model: nn.Module, config: TaskConfig, spec: DataSpec) -> None:
        super().__init__(model, config, spec)
        self.losses: list[Tensor] = []
        self.val_metrics: dict[str, float] = {}
        self.channels_last = False
        self.accumulate = 1
        self.batch_size = 1
        self.train_samples = 1
        self.lr = 0.0
        self.schedule: Schedule = lambda step: 1.0
        self.peak_lr = 0.0
        self.lr_factor = 1.0  # beside the schedule: what follows from validation losses
        self.optimizer_fn: Callable[[nn.Module], Optimizer] | None = None
        self.auxiliary: Auxiliary = _own_loss_only
        self.penalised: Callable[[Tensor], Tensor] = _no_penalty
        self.sam_rho: float | None = None  # how far sharpness-aware minimisation looks
        self.averages_gradients = False  # over ranks, as DeepSpeed does, instead of summing them
        self.after_backward: Callable[[], None] | None = None  # sums gradients over ranks, which can speak before
        self.gradient_clip: float | None = None
        self.gradient_clip_value: float | None = None
        self.arrives_in_shards = False  # the parameters, from rank 0, when DeepSpeed cuts them up
        self.max_nonfinite_steps = 0
        self.skipped = 0  # steps in a row that were left out for a loss that is not finite
        self.stop_signum = 0  # of a stop signal that some rank got, known to all ranks since the same step
        self._groups: list[list[nn.Parameter]] = []
        self._trouble: tuple[float, Tensor] | None = None
        self._window_is_bad = False
        self._is_second_pass = False
        self._buffers_before: list[Tensor] = []
        self._window: list[Tensor] = []

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning sets this name some forty times a step, each time through nn.Module's slow path.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def prepare(self, data: DataModule) -> None:
        """Look at the data before a training, as for the weights of classes."""

    def soft_loss(self, result: dict[str, Tensor], teacher: Tensor, temperature: float, batch: Batch) -> Tensor:
        """How far the outputs are from those of a teacher for the same inputs: a scalar."""
        del batch
        return distance(self.kind, result["output"], teacher, temperature)

    def configure_optimizers(self) -> Optimizer:
        assert self.optimizer_fn is not None
        optimizer = self.optimizer_fn(self.model)
        self._groups = [list(group["params"]) for group in optimizer.param_groups]
        return optimizer

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        """The parameters as the optimizer counts them."""
        return self._groups

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        if device.type != "cpu":
            batch = Batch(*(field.to(device, non_blocking=True) for field in batch))
        return batch if self.channels_last else batch.contiguous()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if batch_idx % self.accumulate == 0 and not self._is_second_pass:
            self._buffers_before = self._copies_of_buffers()  # a forward pass changes them
        loss, out_of_memory = self._loss(batch, batch_idx)
        value = 0.0 if loss is None else loss.item()
        mine = not math.isfinite(value)
        bad, full = self._agreed(mine, out_of_memory is not None)
        if full:
            self._give_back_buffers(self._buffers_before)
            raise OutOfMemory(self._out_of_memory(full, out_of_memory))
        if mine:
            self._trouble = value, batch.ids
        if bad:
            self._window_is_bad = True
            return self._nothing()
        assert loss is not None
        self._window.append(loss.detach())
        return loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Out of memory here ends the attempt on all ranks alike, unless gradients are on their way already."""
        together = self.after_backward is not None or not self.ranks.several
        out_of_memory: Exception | None = None
        try:
            super().backward(loss, *args, **kwargs)
        except RuntimeError as error:
            if not together or not is_out_of_memory(error):
                raise
            out_of_memory = error
        if not together:
            return
        [full] = self.ranks.max_of([self.ranks.rank + 1 if out_of_memory else 0])
        if full:
            self._give_back_buffers(self._buffers_before)
            raise OutOfMemory(self._out_of_memory(full, out_of_memory))
        if self.after_backward is not None:
            self.after_backward()

    def _nothing(self) -> Tensor:
        """A loss whose backward pass changes nothing. ZeRO 1 and 2 cannot do without a gradient of every parameter."""
        if self.averages_gradients and not any(hasattr(p, "ds_id") for p in self.model.parameters()):
            return torch.stack([p.sum() for p in self.model.parameters() if p.requires_grad]).sum() * 0
        return torch.zeros((), device=self.device, requires_grad=True)

    def _loss(self, batch: Batch, batch_idx: int) -> tuple[Tensor | None, Exception | None]:
        try:
            loss = self.penalised(self.auxiliary(batch, self.step(batch)))
        except RuntimeError as error:
            if isinstance(error, OutOfMemoryElsewhere):
                return None, None
            if not is_out_of_memory(error):
                raise
            return None, error
        if self.accumulate > 1 or self.ranks.several:
            loss = loss * self._share(len(batch.ids), batch_idx)
        return loss, None

    def _share(self, num_samples: int, batch_idx: int) -> float:
        """Of this micro-batch in its optimizer step: an uneven tail must still weigh every sample the same."""
        start = batch_idx // self.accumulate * self.batch_size
        window = min(self.batch_size, self.train_samples - start)
        ranks = self.ranks.world_size if self.averages_gradients else 1
        return self.accumulate * ranks * num_samples / window  # Lightning divides by `accumulate`

    def _agreed(self, bad: bool, full: bool) -> tuple[int, int]:
        """One more than the last rank with a bad loss, and than the last one out of memory; 0 where there is none."""
        number = self.ranks.rank + 1
        last_bad, last_full, signum = self.ranks.max_of([bad * number, full * number, stop_flag.signum or 0])
        self.stop_signum = self.stop_signum or (signum if self.ranks.several else 0)
        return last_bad, last_full

    def _out_of_memory(self, number: int, error: Exception | None) -> str:
        what = f": {str(error).splitlines()[0]}" if error is not None else ""
        where = f" of rank {number - 1}" if self.ranks.several else ""
        return f"step {self.global_step + 1}: a micro-batch{where} does not fit into memory{what}"

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        self.set_rates(optimizer)
        loss = optimizer_closure()
        if self.sam_rho is not None and not self._window_is_bad:
            self._second_pass(optimizer_closure, self.sam_rho)
        window, self._window = self._window, []
        if self._window_is_bad:
            self._leave_out(optimizer)
            return
        self.skipped = 0
        optimizer.step(closure=lambda: loss)
        total = window[0] if self.accumulate == 1 else torch.stack(window).sum() / self.accumulate
        self.losses.append(total / self.ranks.world_size if self.averages_gradients else total)

    def set_rates(self, optimizer: Any) -> None:
        """Before a step: the learning rate of every group."""
        self.lr = self.peak_lr * self.schedule(self.trainer.global_step) * self.lr_factor
        for group in optimizer.param_groups:
            group["lr"] = self.lr * group.get("lr_scale", 1.0)

    def _second_pass(self, closure: Callable[[], Any], rho: float) -> None:
        """The gradient at the worst weights nearby; weights, statistics and loss stay those of the first pass."""
        buffers, kept = self._copies_of_buffers(), ascend_(self.model.parameters(), rho)
        self._is_second_pass = True
        try:
            closure()
        finally:
            self._is_second_pass = False
            go_back_(kept)
        self._give_back_buffers(buffers)
        del self._window[1:]

    def _leave_out(self, optimizer: Any) -> None:
        """No rank steps; the weights, the optimizer's state and averages stay as they are."""
        self._window_is_bad = False
        self.skipped += 1
        trouble, self._trouble = self._trouble, None
        if self.skipped > self.max_nonfinite_steps:
            self._give_up(trouble)
        self.losses.append(torch.tensor(math.nan, device=self.device))
        self._give_back_buffers(self._buffers_before)
        optimizer.zero_grad(set_to_none=True)
        if self.averages_gradients:
            self.trainer.strategy.discard_gradients()  # type: ignore[attr-defined]
        if trouble is not None:
            left = self.max_nonfinite_steps - self.skipped
            get_console().warn(f"{self._describe(*trouble)}; this step is left out ({left} more in a row are allowed)")

    def _copies_of_buffers(self) -> list[Tensor]:
        return [buffer.clone() for buffer in self.model.buffers()]

    def _give_back_buffers(self, copies: list[Tensor]) -> None:
        for buffer, before in zip(self.model.buffers(), copies, strict=True):
            buffer.resize_(before.shape).copy_(before)

    def _give_up(self, trouble: tuple[float, Tensor] | None) -> NoReturn:
        what = "a rank's loss is not finite" if trouble is None else self._describe(*trouble)
        before = f", {self.skipped} times in a row" if self.skipped > 1 else ""
        raise NonFiniteLossError(
            f"{what}{before}. The optimizer did not step on it; try a lower optimizer.lr or trainer.gradient_clip"
        )

    def _describe(self, loss: float, ids_tensor: Tensor) -> str:
        ids = ids_tensor.tolist()
        shown = ", ".join(map(str, ids[:16])) + (f", … ({len(ids)} in all)" if len(ids) > 16 else "")
        where = f" on rank {self.ranks.rank}" if self.ranks.several else ""
        return (
            f"the loss became {loss} at step {self.global_step + 1}{where} (epoch {self.current_epoch + 1}, "
            f"learning rate {self.lr:.3g}); sample ids: {shown}"
        )

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        # Lightning's own refuses fused optimizers under bf16, which has no gradient scaler to be in the way.
        if self.gradient_clip_value:
            nn.utils.clip_grad_value_(self.model.parameters(), self.gradient_clip_value)
        if gradient_clip_val:
            nn.utils.clip_grad_norm_(self.model.parameters(), gradient_clip_val)

    def take_losses(self) -> list[float]:
        """The losses of the optimizer steps since the last call, over all ranks, which call this together."""
        losses = torch.stack(self.losses).double().cpu() if self.losses else torch.empty(0)
        self.losses.clear()
        return self.ranks.sum_(losses).tolist() if len(losses) else []

    def on_validation_epoch_end(self) -> None:
        self.val_metrics = {f"val_{name}": float(value) for name, value in self.evaluated().items()}
        # what Lightning's own callbacks look at, such as EarlyStopping(monitor="val_loss")
        self.trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self.val_metrics.items()})
        loss = self.val_metrics["val_loss"]
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
        fit_loop = checkpoint["loops"]["fit_loop"]
        micro_batch, [position] = self.batch_size // self.accumulate, fit_loop["state_dict"]["combined_loader"]
        if position["global_batch"] != micro_batch:
            count_again(fit_loop["epoch_loop.batch_progress"], -(-position["consumed"] // micro_batch))


def count_again(progress: dict[str, Any], batches: int) -> None:
    """Lightning counts batches, which are other ones now: `batches` of this epoch are done.

    A save between steps was within a batch for Lightning, which counts it as completed when it resumes.
    """
    total, current = progress["total"], progress["current"]
    within = total["processed"] == total["ready"] and total["completed"] == total["processed"] - 1
    current.update(dict.fromkeys(current, batches))
    current["completed"] -= within


def is_out_of_memory(error: BaseException) -> bool:
    """Of a GPU, or of torch's allocator on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


# Lightning inspects this signature at every step; a stored one is found four times faster.
Task.training_step.__signature__ = inspect.signature(Task.training_step)  # type: ignore[attr-defined]
