"""The whole config, and what no single key can show."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from .base import Direction, Section
from .compress import CompressConfig
from .conflict import Conflict
from .data import AugmentConfig, DataConfig, data_conflicts
from .export import ExportConfig
from .idle import idle_conflicts
from .model import ModelConfig, ResNetConfig
from .optim import OptimizerConfig, SchedulerConfig, optim_conflicts, stage_conflicts
from .run import RunConfig
from .sequence import learned_ranges, uneven_heads
from .task import TaskConfig, task_conflicts
from .trainer import TrainerConfig
from .transfer import TransferConfig, transfer_conflicts
from .tune import TuneConfig, headline_objective, objective_conflicts


class Config(Section):
    run: RunConfig = Field(default_factory=RunConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    model: ModelConfig = Field(default_factory=lambda: ResNetConfig(family="resnet"))
    task: TaskConfig = Field(default_factory=TaskConfig)
    transfer: TransferConfig = Field(default_factory=TransferConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = Field(default_factory=SchedulerConfig)
    trainer: TrainerConfig = Field(default_factory=TrainerConfig)
    compress: CompressConfig = Field(default_factory=CompressConfig)
    export: ExportConfig = Field(default_factory=ExportConfig)
    tune: TuneConfig = Field(default_factory=TuneConfig)

    @property
    def objectives(self) -> Mapping[str, Direction]:
        """What a search makes best, the first above all: `tune.objectives`, else the task's headline."""
        return self.tune.objectives or headline_objective(self.task)

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        found = conflicts(self)
        if found:
            text = "; ".join(f"{c.key}: got {c.got}, allowed: {c.allowed}" for c in found)
            raise PydanticCustomError("conflicts", "{text}", {"text": text, "conflicts": found})
        return self


def conflicts(config: Config) -> list[Conflict]:
    """What no single key can show.

    >>> conflicts(Config())
    []
    """
    found = data_conflicts(config.data) + _reversed_ranges(config.data.augment)
    batch, accumulate = config.data.batch_size, config.trainer.accumulate
    if batch % accumulate:
        too_many = f"at most data.batch_size, which is {batch}: every micro-batch needs a sample"
        uneven = f"a divisor of data.batch_size, which is {batch}: it is split into that many micro-batches"
        allowed = too_many if accumulate > batch else uneven
        found.append(Conflict("trainer.accumulate", "data.batch_size", str(accumulate), allowed))
    warmup, epochs = config.scheduler.warmup_epochs, config.trainer.epochs
    if warmup > epochs:
        found.append(
            Conflict(
                "scheduler.warmup_epochs",
                "trainer.epochs",
                f"{warmup:g}",
                f"at most trainer.epochs, which is {epochs}",
            )
        )
    deepspeed = config.trainer.deepspeed
    if deepspeed.offload_parameters and deepspeed.stage != 3:
        found.append(
            Conflict(
                "trainer.deepspeed.offload_parameters",
                "trainer.deepspeed.stage",
                "true",
                f"false with stage {deepspeed.stage}: only stage 3 shards parameters",
            )
        )
    if config.trainer.strategy == "deepspeed" and deepspeed.stage == 3 and config.trainer.ema_decay is not None:
        found.append(
            Conflict(
                "trainer.ema_decay",
                "trainer.deepspeed.stage",
                f"{config.trainer.ema_decay:g}",
                "null with stage 3, whose parameters are whole in no rank; or stage 1 or 2",
            )
        )
    found += optim_conflicts(config.optimizer, config.scheduler, config.trainer) + stage_conflicts(
        config.optimizer, config.compress.stages
    )
    if config.data.sampling == "balanced" and config.task.unlabeled_fraction:
        allowed = "shuffle with task.unlabeled_fraction: to balance classes is to look at the labels of all samples"
        found.append(Conflict("data.sampling", "task.unlabeled_fraction", "balanced", allowed))
    found += uneven_heads(config.model) + learned_ranges(config.model.family, config.compress)
    found += transfer_conflicts(config.transfer, config.trainer) + idle_conflicts(config)
    return found + task_conflicts(config.task) + objective_conflicts(config.tune, config.task)


def _reversed_ranges(augment: AugmentConfig) -> list[Conflict]:
    ranges = {"scale": augment.scale, "blur": augment.blur, "resized_crop": augment.resized_crop}
    return [
        Conflict(
            f"data.augment.{name}.0",
            f"data.augment.{name}.1",
            f"{low:g}",
            f"at most data.augment.{name}.1, which is {high:g}",
        )
        for name, (low, high) in ranges.items()
        if low > high
    ]
