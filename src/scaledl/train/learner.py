"""The task around a model, with all that the config says about how and what it learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from scaledl.config import Config
from scaledl.data import DataModule
from scaledl.distributed.ranks import Ranks
from scaledl.models.structure import Model
from scaledl.tasks.base import Task
from scaledl.tasks.model import task_around
from scaledl.train.freezing import Plan, plan_transfer
from scaledl.train.lora import add_adapters_
from scaledl.train.settings import Settings, prepare_module
from scaledl.train.share import arrives_in_shards
from scaledl.train.steps import steps_per_epoch
from scaledl.train.updates import equip


@dataclass(frozen=True)
class Learner:
    """The task, what of its model learns, and the adapters that were put into it, if any."""

    task: Task
    plan: Plan
    adapters: Any


def make_learner(config: Config, settings: Settings, data: DataModule, model: Model, ranks: Ranks) -> Learner:
    """Of the module itself, not of a copy."""
    module = prepare_module(model.module, settings).train()
    if config.trainer.strategy == "deepspeed":
        module.to(memory_format=torch.contiguous_format)  # it may have come as channels_last
    structure, lora = model.structure, config.transfer.lora
    adapters = add_adapters_(module, structure, lora, config.run.seed).train() if lora.rank else None
    plan = plan_transfer(module, structure, config.transfer)
    plan.prepare_(module)
    task = task_around(module, config, data.spec)
    task.prepare(data)
    task.channels_last = settings.channels_last
    task.accumulate = settings.accumulate
    task.batch_size = config.data.batch_size
    task.train_samples = data.trained(config)
    equip(task, config, steps_per_epoch(config, data), plan.lr_scale)
    task.ranks = ranks
    task.max_nonfinite_steps = config.trainer.max_nonfinite_steps
    task.averages_gradients = config.trainer.strategy == "deepspeed"
    task.arrives_in_shards = arrives_in_shards(config, settings, structure)
    return Learner(task, plan, adapters)
