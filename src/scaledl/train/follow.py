"""How the other ranks take part in a training: what rank 0 sends them, and what they make of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
import torch

from scaledl.config import Config
from scaledl.config.registry import CALLBACKS
from scaledl.data import DataModule, build_data
from scaledl.distributed.link import current_link
from scaledl.distributed.ranks import Message, Ranks, current_ranks
from scaledl.errors import ScaledlError
from scaledl.run import Run
from scaledl.tasks.base import OutOfMemory
from scaledl.train.fit import Fitting, train_together
from scaledl.train.settings import Settings
from scaledl.train.share import arrives_in_shards, description, receive, send

FIT = "fit"


def call_in(fitting: Fitting) -> None:
    """Rank 0: let the others come to the same training."""
    model, teacher = fitting.model, fitting.teacher
    by_shard = arrives_in_shards(fitting.config, fitting.settings, model.structure)
    message = {
        "config": fitting.config.model_dump(mode="json"),
        "settings": asdict(fitting.settings),
        "run": str(fitting.run.path.absolute()),
        "attempt": fitting.run.manifest.attempts,
        "fingerprint": fitting.data.spec.fingerprint,
        "model": description(model),
        "by_shard": by_shard,
        "teacher": None if teacher is None else description(teacher),
        "teacher_weight": fitting.teacher_weight,
        "temperature": fitting.temperature,
        "callbacks": _recipes(fitting.callbacks),
        "label": fitting.label,
        "resume": fitting.resume,
    }
    fitting.ranks.call(FIT, message)
    send(model.module, fitting.ranks, by_shard=by_shard)
    if teacher is not None:
        send(teacher.module, fitting.ranks, by_shard=False)


def follow_fit(message: Message) -> None:
    """Another rank: build what rank 0 has, and train with it."""
    ranks = current_ranks()
    config = Config.model_validate(message["config"])
    data = _same_data(config, message["fingerprint"], ranks)
    model = receive(message["model"], ranks, by_shard=message["by_shard"])
    teacher = None if message["teacher"] is None else receive(message["teacher"], ranks, by_shard=False)
    run = Run.open(message["run"])
    current_link().announce(run.path / "ranks", message["attempt"], config.trainer.hang_seconds)
    fitting = Fitting(
        config=config,
        settings=_own_threads(Settings(**message["settings"])),
        run=run,
        data=data,
        model=model,
        teacher=teacher,
        teacher_weight=message["teacher_weight"],
        temperature=message["temperature"],
        callbacks=tuple(CALLBACKS.resolve(recipe.pop("name"))(**recipe) for recipe in message["callbacks"]),
        label=message["label"],
        resume=message["resume"],
        ranks=ranks,
    )
    try:
        train_together(fitting)
    except OutOfMemory:
        return  # of some rank: rank 0 calls again, with smaller micro-batches


def _recipes(callbacks: Sequence[pl.Callback]) -> list[dict[str, Any]]:
    return [dict(callback.recipe) for callback in callbacks if hasattr(callback, "recipe")]


def _own_threads(settings: Settings) -> Settings:
    """Threads are a matter of the machine; within an allocation they are the same unless a rank has fewer CPUs."""
    return dataclasses.replace(settings, num_threads=min(settings.num_threads, torch.get_num_threads()))


_data: dict[str, DataModule] = {}


def _same_data(config: Config, fingerprint: str, ranks: Ranks) -> DataModule:
    """Loaded once for all trainings of a chain."""
    if fingerprint not in _data:
        found = build_data(config.data, config.run.seed)
        if found.spec.fingerprint != fingerprint:
            raise ScaledlError(
                f"data.source: {config.data.source} on {ranks.host} (rank {ranks.rank}) has fingerprint "
                f"{found.spec.fingerprint[:12]}, on rank 0 {fingerprint[:12]}; give all nodes the same files"
            )
        _data[fingerprint] = found
    return _data[fingerprint]
