"""The loader under the real Trainer: whatever moment a checkpoint is saved at, a resumed fit sees just the rest."""

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from scaledl.config.schema import AugmentConfig
from scaledl.data import Arrays, Batch, BatchLoader, DataSpec

pytestmark = pytest.mark.unit

SIZE, BATCH, EPOCHS = 23, 5, 3
STEPS_PER_EPOCH = 5


class Recorder(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 2)
        self.seen: list[tuple] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, self.global_step, batch_idx, batch.ids.tolist(), batch.x.sum().item()))
        return nn.functional.cross_entropy(self.layer(batch.x.flatten(1)), batch.y)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class SaveOnce(pl.Callback):
    def __init__(self, hook: str, step: int, path: Path) -> None:
        self.hook, self.step, self.path = hook, step, path

    def _maybe_save(self, trainer: pl.Trainer, hook: str) -> None:
        if (hook, trainer.global_step) == (self.hook, self.step) and not self.path.exists():
            trainer.save_checkpoint(self.path)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._maybe_save(trainer, "batch")

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._maybe_save(trainer, "validation")

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._maybe_save(trainer, "epoch")


def fit(*callbacks: pl.Callback, checkpoint: Path | None = None) -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (SIZE, 4, 4, 1), dtype=torch.uint8, generator=generator)
    data = Arrays(images, torch.arange(SIZE) % 2, torch.arange(SIZE))
    spec = DataSpec("test", (1, 4, 4), ("a", "b"), (0.5,), (0.3,), "")
    train = BatchLoader(data, spec, BATCH, shuffle=True, augment=AugmentConfig(crop=1, flip=True), seed=3)
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    module = Recorder()
    trainer.fit(module, train, BatchLoader(data, spec, 7), ckpt_path=checkpoint, weights_only=True)
    return module.seen


@pytest.mark.parametrize(
    ("hook", "step"), [("batch", 2), ("batch", 7), ("batch", 5), ("validation", 5), ("epoch", 5), ("epoch", 10)]
)
def test_a_resumed_fit_sees_the_rest_and_nothing_twice(tmp_path: Path, hook: str, step: int) -> None:
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = tmp_path / "last.ckpt"
        whole = fit(SaveOnce(hook, step, path))
        rest = fit(checkpoint=path)
    assert len(whole) == EPOCHS * STEPS_PER_EPOCH
    assert rest == whole[step:]
    for epoch in range(EPOCHS):
        assert sorted(i for row in whole if row[0] == epoch for i in row[3]) == list(range(SIZE))
