"""How outputs are judged: one loss and the same metrics for a model in training, an evaluation, an exported file."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from scaledl.config.schema import AugmentConfig, TaskConfig
from scaledl.data import Batch, DataModule, DataSpec
from scaledl.data.position import PositionedLoader
from scaledl.distributed.ranks import Ranks
from scaledl.runtime.outputs import OutputKind, OutputSpec
from scaledl.runtime.signature import Outputs
from scaledl.tasks.meter import Meter, Pairs, gauge
from scaledl.tasks.metrics import Gauge, Judged

Split = Literal["train", "val", "test"]


class Judge(pl.LightningModule):
    """A model with a loss and metrics. Tasks implement `outputs`, `judged`, and `loss` or all of `step`.

    `model` may be anything that maps inputs to outputs.

    Attributes:
        targets: the kinds of targets (`DataSpec.target`) that it can be learned from.
        learns: what it learns of, for who tries it with other targets; empty where the kinds of them say it.
        kind: what the outputs mean.
        needs_augmentation: whether nothing can be learned from samples as they are.
    """

    targets: ClassVar[frozenset[str]] = frozenset()
    learns: ClassVar[str] = ""
    kind: ClassVar[OutputKind]
    needs_augmentation: ClassVar[bool] = False

    @classmethod
    def outputs(cls, spec: DataSpec, config: TaskConfig) -> Outputs:
        """What a model has to give for such data. Raises UsageError where no model could."""
        raise NotImplementedError

    @classmethod
    def output_spec(cls, spec: DataSpec, config: TaskConfig) -> OutputSpec:
        """What an exported file says of its outputs."""
        wanted = cls.outputs(spec, config)
        return OutputSpec(cls.kind, wanted.form, wanted.shape(spec.inputs), threshold=config.threshold)

    def __init__(self, model: nn.Module, config: TaskConfig, spec: DataSpec) -> None:
        super().__init__()
        self.model = model
        self.config, self.spec = config, spec
        self.num_outputs = self.outputs(spec, config).count
        self.ranks = Ranks()
        self.seed = 0  # of what is drawn here, a function of it, the epoch and the sample
        self.meter = Meter(self.gauges())
        self._loss_sum: Tensor | float = 0.0
        self._count = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)  # type: ignore[no-any-return]

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One forward pass: batch -> {"loss": scalar, "output": [B, ...]}, with "input" where the model saw another."""
        output = self.model(batch.x)
        return {"loss": self.loss(output, batch), "output": output}

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """A scalar: the mean over the samples of the batch."""
        raise NotImplementedError

    def judged(self, result: dict[str, Tensor], batch: Batch) -> Pairs:
        """What metrics see of a batch: outputs and truths, as `gauges` take them."""
        raise NotImplementedError

    def gauges(self) -> dict[str, Gauge]:
        """The metrics by their names, without the loss."""
        how = self.judging()
        return {name: gauge(name, how) for name in self.config.figures if name != "loss"}

    def judging(self) -> Judged:
        """What the outputs are judged as."""
        scale = self.config.traits.scale
        assert scale is not None, self.config.name
        return Judged(scale, self.num_outputs, self.config.threshold)

    def check(self, batch: Batch) -> None:
        """Raises UsageError for targets that do not fit the outputs."""

    def weight(self, batch: Batch) -> int:
        """How many samples the loss of an evaluation is the mean over."""
        return len(batch.ids)

    @classmethod
    def takes_unlabeled(cls, config: TaskConfig) -> bool:
        """Whether it can be learned where some training samples lack their label, or some of their numbers."""
        return False

    @classmethod
    def check_model(cls, module: nn.Module, spec: DataSpec, family: str) -> None:
        """Raises UsageError for a model that cannot learn this, though its outputs have the right shape."""

    def train_loader(
        self, data: DataModule, batch_size: int, augment: AugmentConfig, **options: Any
    ) -> PositionedLoader:
        """What a training goes through; options as those of `DataModule.train_loader`."""
        return data.train_loader(batch_size, augment, self.seed, **options)

    def eval_loader(
        self, data: DataModule, split: Split, batch_size: int, augment: AugmentConfig, **options: Any
    ) -> PositionedLoader:
        """What an evaluation goes through; options as those of `DataModule.eval_loader`. `augment` is the training's,
        for a task that needs several views of a sample."""
        del augment
        return data.eval_loader(split, batch_size, **options)

    def on_validation_epoch_start(self) -> None:
        self._loss_sum, self._count = 0.0, 0
        self.meter.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        result = self.step(batch)
        if len(batch.ids):  # none for a row that only keeps the ranks in step
            count = self.weight(batch)
            self._loss_sum = self._loss_sum + result["loss"].detach().double() * count
            self._count += count
            self.meter.update(self.judged(result, batch))

    def evaluated(self) -> dict[str, Tensor]:
        """Loss and figures of all batches since the validation began, over all ranks, which call this together."""
        sums = torch.tensor([float(self._loss_sum), self._count], dtype=torch.float64)
        total, count = self.ranks.sum_(sums)
        return {"loss": total / count.clamp(min=1), **self.meter.results(self.ranks)}
