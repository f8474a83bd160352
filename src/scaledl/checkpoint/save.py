"""When a training saves, and when it stops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch

from scaledl.checkpoint.files import candidates, read_info, step_of
from scaledl.checkpoint.random_state import random_state, ranks_random_state, restore_ranks_random_state
from scaledl.checkpoint.writer import CheckpointWriter, Position
from scaledl.distributed.preemption import StopFlag
from scaledl.distributed.ranks import Ranks
from scaledl.run import Run
from scaledl.tasks.base import OutOfMemory


class Checkpointer(pl.Callback):
    """Saves after every epoch, every N steps if asked, and once more when a stop signal came to any rank.

    All ranks save together, rank 0 writes. Within an epoch a save is put off past its last step and past open
    accumulations: Lightning would skip that epoch's end on resume.
    """

    def __init__(
        self,
        run: Run,
        writer: CheckpointWriter,
        *,
        every_n_steps: int | None,
        stop_flag: StopFlag,
        before_save: Callable[[], None],
        ranks: Ranks,
        seed: int,
    ) -> None:
        self.directory = run.checkpoints
        self.writer = writer
        self.every_n_steps = every_n_steps
        self.stop_flag = stop_flag
        self.before_save = before_save
        self.ranks = ranks
        self.seed = seed
        self.started = False
        self._last_step = -1
        self._random: list[dict[str, Any]] = []
        self._window_random: dict[str, Any] | None = None  # at the start of an optimizer step, where dropout draws
        self._random_now: dict[str, Any] | None = None
        self._draws = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stop_flag.take_back()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stop_flag.take_back()
        self._last_step = trainer.global_step
        if self._random:
            restore_ranks_random_state(self._random, self.ranks, self.seed, trainer.global_step)
        elif trainer.ckpt_path is not None:
            raise LookupError("no random state")
        self._draws = any(isinstance(part, torch.nn.modules.dropout._DropoutNd) for part in pl_module.modules())
        if pl_module.averages_gradients and trainer.ckpt_path is None:
            self.save(trainer, epoch_complete=False)  # DeepSpeed emptied the model that a new try would start from
        self.started = True

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._draws and batch_idx % trainer.accumulate_grad_batches == 0:
            self._window_random = random_state()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.writer.raise_error()
        signum = pl_module.stop_signum if self.ranks.several else self.stop_flag.signum
        if not (signum or self.every_n_steps) or not self._can_save(trainer, batch_idx):
            return
        due = self.every_n_steps and trainer.global_step - self._last_step >= self.every_n_steps
        if signum or due:
            self.save(trainer, epoch_complete=False)
        if signum:  # as it was before the save: a signal since then waits for the next step
            self._stop(signum, f"checkpoint saved at step {trainer.global_step}")

    def _can_save(self, trainer: pl.Trainer, batch_idx: int) -> bool:
        last = batch_idx + 1 >= trainer.num_training_batches
        return not last and not trainer.should_stop and (batch_idx + 1) % trainer.accumulate_grad_batches == 0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.save(trainer, epoch_complete=True, val_loss=pl_module.val_metrics.get("val_loss"))
        if trainer.current_epoch + 1 < (trainer.max_epochs or 0) and not trainer.should_stop:
            [signum] = self.ranks.max_of([self.stop_flag.signum or pl_module.stop_signum])
            if signum:
                self._stop(signum, f"checkpoint saved after epoch {trainer.current_epoch + 1}")
        else:
            self.writer.wait()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        if isinstance(exception, OutOfMemory) and not pl_module.averages_gradients:
            self._save_window_start(trainer, pl_module)
        self.writer.close()

    def save(self, trainer: pl.Trainer, *, epoch_complete: bool, val_loss: float | None = None) -> None:
        self.before_save()
        step = trainer.global_step
        self.writer.position = Position(step, trainer.current_epoch, epoch_complete, val_loss)
        trainer.save_checkpoint(self.directory / f"step-{step:08d}.ckpt")
        self._last_step = step

    def _stop(self, signum: int, saved: str) -> None:
        self.writer.wait()
        self.ranks.barrier()  # no rank leaves, and with it the connections, before the checkpoint is whole
        self.stop_flag.signum = self.stop_flag.signum or signum
        raise self.stop_flag.outcome(saved)

    def _save_window_start(self, trainer: pl.Trainer, task: Any) -> None:
        """The state before the step that did not fit: nothing but the position in the data has moved since."""
        if self._is_saved(trainer.global_step):
            return
        loader: Any = trainer.train_dataloader
        window = loader.batch_size * trainer.accumulate_grad_batches
        position = loader.consumed
        loader.consumed = (position - 1) // window * window
        self._random_now = self._window_random
        try:
            if loader.consumed or not trainer.current_epoch:
                self.save(trainer, epoch_complete=False)
        finally:
            loader.consumed, self._random_now = position, None

    def _is_saved(self, step: int) -> bool:
        """As rank 0 sees it, whose writer may just be at it."""
        there = 0
        if self.ranks.is_main:
            self.writer.close()
            there = any(step_of(path) == step and read_info(path) is not None for path in candidates(self.directory))
        return bool(self.ranks.max_of([int(there)])[0])

    def state_dict(self) -> dict[str, Any]:
        return {"random": ranks_random_state(self.ranks, self._random_now)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        saved = state_dict["random"]
        self._random = saved if isinstance(saved, list) else [saved]
