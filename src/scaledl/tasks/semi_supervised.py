"""Classification where most samples have no label (Lee 2013; FixMatch, Sohn et al. 2020)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from scaledl.config.schema import AugmentConfig, TaskConfig
from scaledl.data import Batch, DataModule, DataSpec
from scaledl.data.arrays import NO_CLASS
from scaledl.data.hashing import hash_ids, hash_key, uniform
from scaledl.data.position import PositionedLoader
from scaledl.errors import UsageError
from scaledl.tasks.classification import ClassificationTask
from scaledl.tasks.views import paired_loader

UNLABELED = 1004  # coordinate of draws, as in `scaledl.data.hashing`


class SemiSupervisedTask(ClassificationTask):
    """Logits [B, K] against labels int64 [B], where NO_CLASS is none; `unlabeled_fraction` of the others are not looked
    at.

    In training each sample is seen as it is and augmented, x [2 B, ...]. Where there is no label, the class that the
    model gives the sample as it is, with a probability of at least `confidence`, is what it learns for the augmented
    one (without augmentation these are the same, which is Lee's way). Both losses are sums over a batch divided by
    the share of such samples in the split: their means in expectation, whatever a batch has of them.
    """

    @classmethod
    def takes_unlabeled(cls, config: TaskConfig) -> bool:
        return True

    def __init__(self, model: nn.Module, config: TaskConfig, spec: DataSpec) -> None:
        super().__init__(model, config, spec)
        self._labeled_share = 1 - config.unlabeled_fraction

    def prepare(self, data: DataModule) -> None:
        """Raises UsageError where no label is left."""
        self._labeled_share = float(self._is_labeled(data.train.ids, data.train.labels).double().mean())
        if not self._labeled_share:
            raise UsageError(
                f"task.unlabeled_fraction: got {self.config.unlabeled_fraction:g}, and no sample is left with a label; "
                "allowed: less"
            )

    def _is_labeled(self, ids: Tensor, y: Tensor) -> Tensor:
        drawn = uniform(hash_ids(ids, [hash_key(self.seed, UNLABELED)])[0])
        return (drawn >= self.config.unlabeled_fraction) & (y != NO_CLASS)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        if len(batch.x) == len(batch.y):  # a loader of single views, as an evaluation has
            return super().step(batch)
        logits: Tensor = self.model(batch.x)
        plain, augmented = logits.chunk(2)
        ids = batch.ids if len(batch.ids) else batch.ids.new_zeros(len(batch.y))
        labeled = self._is_labeled(ids, batch.y)
        own = self.values(augmented, batch.y.clamp(min=0))
        loss = (own * labeled).mean() / self._labeled_share
        if self._labeled_share < 1:
            guessed = self._guessed(plain.detach(), augmented) * ~labeled
            loss = loss + self.config.unlabeled_weight * guessed.mean() / (1 - self._labeled_share)
        return {"loss": loss, "output": augmented, "input": batch.x.chunk(2)[1]}

    def _guessed(self, plain: Tensor, augmented: Tensor) -> Tensor:
        """Cross entropy against the model's own class where it is sure of it, else 0: [B]."""
        sure, guess = plain.float().softmax(1).max(1)
        values = F.cross_entropy(augmented.float(), guess, reduction="none")
        return values * (sure >= self.config.confidence)

    def train_loader(
        self, data: DataModule, batch_size: int, augment: AugmentConfig, **options: Any
    ) -> PositionedLoader:
        views = (AugmentConfig(), augment)
        return paired_loader(
            data, "train", batch_size, views, self.config.name, shuffle=True, seed=self.seed, **options
        )
