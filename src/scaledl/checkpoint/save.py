"""When a training saves, and when it stops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from scaledl.checkpoint.files import FORMAT_VERSION, CheckpointInfo, newest_verified, prune_old
from scaledl.checkpoint.random_state import random_state, restore_random_state
from scaledl.distributed.preemption import StopFlag
from scaledl.errors import ScaledlError
from scaledl.run import atomic_json, sha256_file


class Checkpointer(pl.Callback):
    """Saves after every epoch, every N steps if asked, and once more when a stop signal came.

    Within an epoch a save is put off past its last step and past open accumulations: Lightning would skip that
    epoch's end on resume.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep_last: int,
        every_n_steps: int | None,
        stop_flag: StopFlag,
        before_save: Callable[[], None],
    ) -> None:
        self.directory = directory
        self.keep_last = keep_last
        self.every_n_steps = every_n_steps
        self.stop_flag = stop_flag
        self.before_save = before_save
        self.started = False
        self._last_step = -1
        self._random: dict[str, Any] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stop_flag.take_back()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stop_flag.take_back()
        self._last_step = trainer.global_step
        if self._random:
            restore_random_state(self._random)
        elif trainer.ckpt_path is not None:
            raise LookupError("no random state")
        self.started = True

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        stopping = self.stop_flag.signum is not None
        if not (stopping or self.every_n_steps) or not self._can_save(trainer, batch_idx):
            return
        due = self.every_n_steps and trainer.global_step - self._last_step >= self.every_n_steps
        if stopping or due:
            self.save(trainer, epoch_complete=False)
        if stopping:  # as it was before the save: a signal since then waits for the next step
            self.stop_flag.raise_if_set(f"checkpoint saved at step {trainer.global_step}")

    def _can_save(self, trainer: pl.Trainer, batch_idx: int) -> bool:
        last = batch_idx + 1 >= trainer.num_training_batches
        return not last and not trainer.should_stop and (batch_idx + 1) % trainer.accumulate_grad_batches == 0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.save(trainer, epoch_complete=True, val_loss=pl_module.val_metrics.get("val_loss"))
        if trainer.current_epoch + 1 < (trainer.max_epochs or 0) and not trainer.should_stop:
            self.stop_flag.raise_if_set(f"checkpoint saved after epoch {trainer.current_epoch + 1}")

    def save(self, trainer: pl.Trainer, *, epoch_complete: bool, val_loss: float | None = None) -> None:
        self.before_save()
        step = trainer.global_step
        path = self.directory / f"step-{step:08d}.ckpt"
        try:
            trainer.save_checkpoint(path)
            digest, size = sha256_file(path), path.stat().st_size
            info = CheckpointInfo(FORMAT_VERSION, step, trainer.current_epoch, epoch_complete, size, digest, val_loss)
            atomic_json(path.with_suffix(".json"), asdict(info), "checkpoint's second file")
        except ScaledlError as error:
            raise ScaledlError(f"{error}; {self._what_remains()}") from error
        self._last_step = step
        prune_old(self.directory, self.keep_last)

    def _what_remains(self) -> str:
        found = newest_verified(self.directory)
        if found is None:
            return "there is no earlier checkpoint to go on from"
        return f"{found[0].name} remains, and the same command goes on from there"

    def state_dict(self) -> dict[str, Any]:
        return {"random": random_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._random = state_dict["random"]
