"""Training checkpoints: atomic, hashed, loaded without pickle; the newest one that verifies is the one that loads.

A checkpoint is two files: `step-00000450.ckpt` (torch zip, tensors and plain values only) and, written after it,
`step-00000450.json` with its size, SHA-256 and position. A checkpoint without its second file does not exist.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import CheckpointIO

from scaledl.console import get_console
from scaledl.distributed.preemption import StopFlag
from scaledl.errors import UsageError
from scaledl.run import atomic_file, atomic_json, sha256_file

FORMAT_VERSION = 1


@dataclass(frozen=True)
class CheckpointInfo:
    """The second file of a checkpoint. `step` counts optimizer steps, `epoch` is 0-based."""

    format: int
    step: int
    epoch: int
    epoch_complete: bool
    size: int
    sha256: str
    val_loss: float | None = None


def scan(directory: Path) -> list[tuple[Path, CheckpointInfo]]:
    """All checkpoints with a readable second file, newest first; their content is not verified yet."""
    found = []
    for sidecar in directory.glob("step-*.json"):
        try:
            info = CheckpointInfo(**json.loads(sidecar.read_text()))
        except (OSError, ValueError, TypeError):
            get_console().warn(f"passing over {sidecar.with_suffix('.ckpt')}: its {sidecar.name} is damaged")
            continue
        found.append((sidecar.with_suffix(".ckpt"), info))
    return sorted(found, key=lambda item: item[1].step, reverse=True)


def problem(path: Path, info: CheckpointInfo) -> str | None:
    """Why this checkpoint cannot be used, or None."""
    if info.format != FORMAT_VERSION:
        return f"its format is {info.format}, this scaledl reads {FORMAT_VERSION}"
    if not path.is_file():
        return "the file is missing"
    if path.stat().st_size != info.size:
        return f"it has {path.stat().st_size:,} bytes instead of {info.size:,}"
    if sha256_file(path) != info.sha256:
        return "its content does not match its SHA-256"
    return None


def newest_verified(directory: Path) -> tuple[Path, CheckpointInfo] | None:
    """The newest checkpoint whose hash verifies; damaged ones are passed over with a warning each."""
    for path, info in scan(directory):
        reason = problem(path, info)
        if reason is None:
            return path, info
        get_console().warn(f"passing over {path}: {reason}")
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load tensors and plain values; anything else (a pickled object) is refused unexecuted.

    Raises:
        UsageError: the file is not such a checkpoint.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(f"{path} is not a scaledl checkpoint: {first_line}") from error
    if not isinstance(checkpoint, dict):
        raise UsageError(f"{path} is not a scaledl checkpoint: it holds a {type(checkpoint).__name__}")
    return checkpoint


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's file access, made atomic and free of pickle."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic_file(Path(path)) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


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
        self._last_step = -1
        self._random: dict[str, Any] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stop_flag.take_back()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stop_flag.take_back()
        self._last_step = trainer.global_step
        if self._random:
            restore_random_state(self._random)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        stopping = self.stop_flag.signum is not None
        if not (stopping or self.every_n_steps) or not self._can_save(trainer, batch_idx):
            return
        due = self.every_n_steps and trainer.global_step - self._last_step >= self.every_n_steps
        if stopping or due:
            self.save(trainer, epoch_complete=False)
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
        trainer.save_checkpoint(path)
        digest, size = sha256_file(path), path.stat().st_size
        info = CheckpointInfo(FORMAT_VERSION, step, trainer.current_epoch, epoch_complete, size, digest, val_loss)
        atomic_json(path.with_suffix(".json"), asdict(info))
        self._last_step = step
        prune_old(self.directory, self.keep_last)

    def state_dict(self) -> dict[str, Any]:
        return {"random": random_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._random = state_dict["random"]


def prune_old(directory: Path, keep_last: int) -> None:
    """Remove all but the newest `keep_last` and the best (lowest validation loss), only once the newest verifies."""
    found = scan(directory)
    if not found or problem(*found[0]) is not None:
        return
    best = best_of(found)
    for path, _ in found[keep_last:]:
        if path != best:
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def best_of(found: list[tuple[Path, CheckpointInfo]]) -> Path | None:
    """The checkpoint with the lowest validation loss."""
    scored = [(info.val_loss, path) for path, info in found if info.val_loss is not None]
    return min(scored)[1] if scored else None


def random_state() -> dict[str, Any]:
    """State of torch's, numpy's and python's generators as tensors and lists (loads without pickle)."""
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "numpy": {
            "keys": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
            "pos": int(numpy_state["state"]["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]),
        },
        "python": [version, list(internal), gauss],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Inverse of `random_state`."""
    torch.set_rng_state(state["torch"])
    keys = state["numpy"]["keys"].numpy().astype(np.uint32)
    position = state["numpy"]["pos"]
    np.random.set_state(("MT19937", keys, position, state["numpy"]["has_gauss"], state["numpy"]["gauss"]))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
