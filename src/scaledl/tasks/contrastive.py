"""Contrastive learning (SimCLR, Chen et al. 2020): vectors that are near for two views of one sample."""

from __future__ import annotations

from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn

from scaledl.config.schema import AugmentConfig, TaskConfig
from scaledl.data import Batch, DataModule, DataSpec
from scaledl.data.arrays import Target
from scaledl.data.position import PositionedLoader
from scaledl.distributed.gather import counts_of_all, gather_rows
from scaledl.errors import UsageError
from scaledl.runtime.outputs import OutputKind
from scaledl.runtime.signature import Outputs
from scaledl.tasks.base import Task
from scaledl.tasks.judge import Split
from scaledl.tasks.losses import loss_fn, mean_over_samples
from scaledl.tasks.meter import Pairs
from scaledl.tasks.metrics import Gauge, Share
from scaledl.tasks.pairs import found_partners
from scaledl.tasks.views import paired_loader


class ContrastiveTask(Task):
    """Vectors [2 B, D] of two views of each sample, which the loader draws by `data.augment`. Labels are not looked at.

    The model's own last layer is the projection head, a linear one (section 4.2 of the paper): what is before it is
    the representation, and a model that goes on from there gets another last layer, as for other classes. So all that
    was learned is in the saved model, and the task holds nothing.

    Others are those of the same micro-batch on all ranks, as in the paper: `data.batch_size` over micro-batches says
    how many, and so the loss does not depend on the number of ranks. (What BatchNorm sees does; on GPUs there is
    `trainer.sync_batchnorm`.) In an evaluation both views are the same every time.
    """

    targets = frozenset(get_args(Target))
    kind: ClassVar[OutputKind] = "embedding"
    needs_augmentation: ClassVar[bool] = True

    @classmethod
    def takes_unlabeled(cls, config: TaskConfig) -> bool:
        return True

    @classmethod
    def outputs(cls, spec: DataSpec, config: TaskConfig) -> Outputs:
        return Outputs(config.embedding)

    def __init__(self, model: nn.Module, config: TaskConfig, spec: DataSpec) -> None:
        super().__init__(model, config, spec)
        self._loss_fn = loss_fn(config)

    def gauges(self) -> dict[str, Gauge]:
        return {"pair_accuracy": Gauge(Share())}

    def step(self, batch: Batch) -> dict[str, Tensor]:
        if not self.ranks.several:
            return super().step(batch)
        try:
            output = self.model(batch.x)
        except RuntimeError:
            counts_of_all(self.ranks, None)  # the others wait for it
            raise
        count = len(batch.ids)  # none where a row only keeps this rank in step
        counts = counts_of_all(self.ranks, count)
        views = gather_rows(self.ranks, torch.stack(output.chunk(2), 1), counts)
        before = sum(counts[: self.ranks.rank])
        mine = torch.arange(before, before + count, device=output.device)
        values = self._loss_fn(views[:, 0], views[:, 1], self.config, None)
        own = values[mine] if values.ndim else values
        loss = mean_over_samples(own) if count else values.sum() * 0
        found = found_partners(views[:, 0].detach(), views[:, 1].detach()).view(2, -1)[:, mine].flatten()
        return {"loss": loss, "output": output, "found": found}

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        first, second = output.chunk(2)
        return mean_over_samples(self._loss_fn(first, second, self.config, None))

    def judged(self, result: dict[str, Tensor], batch: Batch) -> Pairs:
        found = result["found"] if "found" in result else found_partners(*result["output"].chunk(2))
        return {"outputs": (found, torch.ones_like(found))}

    def train_loader(
        self, data: DataModule, batch_size: int, augment: AugmentConfig, **options: Any
    ) -> PositionedLoader:
        return paired_loader(
            *(data, "train", batch_size, _both(augment), self.config.name), shuffle=True, seed=self.seed, **options
        )

    def eval_loader(
        self, data: DataModule, split: Split, batch_size: int, augment: AugmentConfig, **options: Any
    ) -> PositionedLoader:
        return paired_loader(
            *(data, split, batch_size, _both(augment), self.config.name), fixed=True, seed=self.seed, **options
        )


def _both(augment: AugmentConfig) -> tuple[AugmentConfig, AugmentConfig]:
    if augment == AugmentConfig():
        raise UsageError(
            "data.augment: nothing is on, and task.name=contrastive learns from two views of a sample, which would be "
            "the same; fix: for images data.augment.resized_crop, flip, brightness and the like, for series "
            "data.augment.series"
        )
    return augment, augment
