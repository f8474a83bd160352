"""What `auto` in the trainer section means for a run: fixed by its first attempt."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from scaledl.config import Config
from scaledl.console import get_console
from scaledl.data import DataModule
from scaledl.errors import UsageError
from scaledl.models.structure import Model
from scaledl.run import Run, atomic_json
from scaledl.train.precision import resolve_precision


@dataclass(frozen=True)
class Settings:
    """What `auto` in the trainer section became; fixed by the first attempt, so that a resume is exact."""

    precision: str
    channels_last: bool
    num_threads: int
    teacher_bf16: bool = False


def resolve_settings(config: Config, run: Run, data: DataModule, model: Model) -> Settings:
    path = run.checkpoints / "settings.json"
    if path.exists():
        return _read_settings(path)
    channels_last = config.trainer.channels_last
    settings = Settings(
        precision=config.trainer.precision,
        channels_last=config.model.family != "mlp" if channels_last == "auto" else channels_last,
        num_threads=config.trainer.num_threads or torch.get_num_threads(),
        teacher_bf16=_bf16_runs_natively(config),
    )
    if settings.precision == "auto":
        settings = _measure_precision(config, data, model, settings)
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    atomic_json(path, vars(settings))
    return settings


def _read_settings(path: Path) -> Settings:
    try:
        settings = Settings(**json.loads(path.read_bytes()))
    except (ValueError, TypeError):
        settings = None
    if settings is None or settings.precision not in ("fp32", "bf16") or type(settings.num_threads) is not int:
        raise UsageError(
            f"{path} is damaged: it should hold precision, channels_last and num_threads of this run. Remove it to "
            "have them chosen again; the run then goes on, perhaps with other last bits"
        )
    return settings


def _measure_precision(config: Config, data: DataModule, model: Model, settings: Settings) -> Settings:
    torch.set_num_threads(settings.num_threads)
    device = "cuda" if uses_gpu(config) else "cpu"
    x = next(iter(data.eval_loader("train", config.data.batch_size // config.trainer.accumulate))).x.to(device)
    module = prepare_module(copy.deepcopy(model.module), settings).to(device)
    precision = resolve_precision(module, x, data.spec.num_classes)
    get_console().info(f"precision auto: {precision} is faster here")
    return replace(settings, precision=precision)


def prepare_module(module: nn.Module, settings: Settings) -> nn.Module:
    return module.to(memory_format=torch.channels_last) if settings.channels_last else module


def uses_gpu(config: Config) -> bool:
    if config.trainer.accelerator == "gpu" and not torch.cuda.is_available():
        raise UsageError("trainer.accelerator: got 'gpu', but no GPU is usable here; allowed here: cpu, auto")
    return config.trainer.accelerator != "cpu" and torch.cuda.is_available()


def _bf16_runs_natively(config: Config) -> bool:
    if uses_gpu(config):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
