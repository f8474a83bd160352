"""How the other ranks take part in a training: what rank 0 sends them, and what they make of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from scaledl.config import Config
from scaledl.config.registry import CALLBACKS
from scaledl.data import DataModule, build_data
from scaledl.distributed.link import current_link
from scaledl.distributed.ranks import Message, Ranks, current_ranks
from scaledl.errors import ScaledlError
from scaledl.models.structure import Model, Structure, build
from scaledl.run import Run
from scaledl.tasks.base import OutOfMemory
from scaledl.train.fit import Fitting, train_together
from scaledl.train.settings import Settings

FIT = "fit"


def call_in(fitting: Fitting) -> None:
    """Rank 0: let the others come to the same training."""
    teacher = fitting.teacher
    message = {
        "config": fitting.config.model_dump(mode="json"),
        "settings": asdict(fitting.settings),
        "run": str(fitting.run.path.absolute()),
        "attempt": fitting.run.manifest.attempts,
        "fingerprint": fitting.data.spec.fingerprint,
        "structure": fitting.model.structure.to_json(),
        "teacher": None if teacher is None else teacher.structure.to_json(),
        "teacher_weight": fitting.teacher_weight,
        "temperature": fitting.temperature,
        "callbacks": _recipes(fitting.callbacks),
        "label": fitting.label,
        "resume": fitting.resume,
    }
    fitting.ranks.call(FIT, message)
    for model in (fitting.model, teacher):
        if model is not None:
            _send(model.module, fitting.ranks)


def follow_fit(message: Message) -> None:
    """Another rank: build what rank 0 has, and train with it."""
    ranks = current_ranks()
    config = Config.model_validate(message["config"])
    data = _same_data(config, message["fingerprint"], ranks)
    model = _receive(message["structure"], ranks)
    teacher = None if message["teacher"] is None else _receive(message["teacher"], ranks)
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


def _send(module: nn.Module, ranks: Ranks) -> None:
    """Names, shapes and values: the ranges of observers have no shape before they have seen data."""
    data = save_tensors({name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()})
    buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    ranks.broadcast_([torch.tensor([len(buffer)]), buffer])


def _receive(structure: Any, ranks: Ranks) -> Model:
    known = Structure.from_json(structure)
    size = torch.tensor([0])
    ranks.broadcast_([size])
    buffer = torch.empty(int(size), dtype=torch.uint8)
    ranks.broadcast_([buffer])
    module = build(known, trust=True)
    module.load_state_dict({name: tensor.clone() for name, tensor in load_tensors(buffer.numpy().tobytes()).items()})
    return Model(module, known)
