"""What `auto` in the trainer section means for a run: fixed by its first attempt."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pytorch_lightning as pl
import torch
from torch import nn

from scaledl.config import Config
from scaledl.console import get_console
from scaledl.data import Batch, DataModule
from scaledl.distributed.ranks import Ranks
from scaledl.errors import ScaledlError, UsageError
from scaledl.models.structure import Model
from scaledl.run import Run, atomic_json
from scaledl.run.machine import num_cpus
from scaledl.tasks.base import Task, is_out_of_memory
from scaledl.tasks.model import task_around
from scaledl.train.compiling import MANY, worth_compiling
from scaledl.train.precision import resolve_precision
from scaledl.train.steps import steps_per_epoch, total_steps

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """What `auto` in the trainer section became; fixed by the first attempt, so that a resume is exact."""

    precision: str
    channels_last: bool
    num_threads: int
    teacher_bf16: bool = False
    accumulate: int = 1
    world_size: int = 1
    compile: bool = False


FILE = "settings.json"
_BLOCK = 16  # channels that an AVX-512 kernel takes at a time


def resolve_settings(config: Config, run: Run, data: DataModule, model: Model, ranks: Ranks) -> Settings:
    """What this attempt trains with. DeepSpeed cannot broadcast parameters that lie in memory as channels_last."""
    settings = _settings_of_run(config, run, data, model, ranks)
    return replace(settings, channels_last=False) if config.trainer.strategy == "deepspeed" else settings


def _settings_of_run(config: Config, run: Run, data: DataModule, model: Model, ranks: Ranks) -> Settings:
    """On another number of ranks the threads of each are chosen again; all else stays as it was."""
    path = run.checkpoints / FILE
    if path.exists():
        settings = _read_settings(path, config)
        if settings.world_size == ranks.world_size:
            return settings
        return replace(settings, world_size=ranks.world_size, num_threads=_num_threads(config, ranks))
    settings = fresh_settings(config, data, model, ranks)
    if _may_be_compiled(config, model):
        settings = replace(settings, compile=_try_compiling(config, data, model, settings))
    _keep(settings, run)
    return settings


def fresh_settings(config: Config, data: DataModule, model: Model, ranks: Ranks) -> Settings:
    """What `auto` means here for a training that begins; for precision, after a short measurement."""
    settings = Settings(
        precision=config.trainer.precision,
        channels_last=_channels_last(config, model.module),
        num_threads=_num_threads(config, ranks),
        teacher_bf16=_bf16_runs_natively(config),
        accumulate=config.trainer.accumulate,
        world_size=ranks.world_size,
        compile=config.trainer.compile is True,
    )
    if config.trainer.strategy == "deepspeed" and not uses_gpu(config):
        settings = replace(settings, precision="fp32")
    if settings.precision == "auto":
        settings = _measure_precision(config, data, model, settings)
    return settings


def _channels_last(config: Config, module: nn.Module) -> bool:
    """What the config says, or where it leaves the choice whatever convolves images; but never where it breaks
    gradients."""
    wanted = config.trainer.channels_last
    if wanted is False or (wanted == "auto" and not any(isinstance(layer, nn.Conv2d) for layer in module.modules())):
        return False
    narrow = not uses_gpu(config) and any(_is_narrow_and_strided(layer) for layer in module.modules())
    if narrow and wanted is True:
        get_console().warn(
            f"trainer.channels_last: true is not used: on CPUs gradients of strided 1x1 convolutions with less than "
            f"{_BLOCK} input channels are wrong in that layout (oneDNN #6035), and this model has such"
        )
    return not narrow


def _is_narrow_and_strided(layer: nn.Module) -> bool:
    """oneDNN writes past its workspace there: wrong gradients of the weights, or a crash."""
    return (
        isinstance(layer, nn.Conv2d)
        and max(layer.kernel_size) == 1
        and max(layer.stride) > 1
        and layer.in_channels // layer.groups < _BLOCK
    )


def halve_micro_batch(settings: Settings, config: Config, run: Run, ranks: Ranks, problem: str) -> Settings:
    """Smaller micro-batches of the same batch, for this run and its later attempts, said loudly.

    Raises ScaledlError when each rank has one sample already.
    """
    batch = config.data.batch_size
    more = (number for number in range(2 * settings.accumulate, batch // ranks.world_size + 1) if batch % number == 0)
    accumulate = next(more, None)
    if accumulate is None:
        raise ScaledlError(
            f"{problem}; a smaller micro-batch than {batch // settings.accumulate} samples over "
            f"{ranks.world_size} ranks cannot be cut from data.batch_size {batch}: "
            "use a smaller model, more memory or more ranks"
        )
    get_console().warn(
        f"OUT OF MEMORY: {problem}. Going on with {accumulate} micro-batches of {batch // accumulate} samples, "
        f"not {settings.accumulate} of {batch // settings.accumulate}; the batch of an optimizer step stays {batch}"
    )
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    settings = replace(settings, accumulate=accumulate)
    _keep(settings, run)
    return settings


def _keep(settings: Settings, run: Run) -> None:
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    atomic_json(run.checkpoints / FILE, vars(settings))


def _num_threads(config: Config, ranks: Ranks) -> int:
    """A rank's share of the CPUs that this node allows, and no more than torch was told to use."""
    if config.trainer.num_threads:
        return config.trainer.num_threads
    here = ranks.spec.local_world_size if ranks.spec else 1
    return max(1, min(torch.get_num_threads(), num_cpus() // here))


def _read_settings(path: Path, config: Config) -> Settings:
    defaults = {"accumulate": config.trainer.accumulate, "compile": config.trainer.compile is True}
    try:
        settings = Settings(**{**defaults, **json.loads(path.read_bytes())})
    except (ValueError, TypeError):
        settings = None
    if settings is None or settings.precision not in ("fp32", "bf16") or type(settings.num_threads) is not int:
        raise UsageError(
            f"{path} is damaged: it should hold precision, channels_last and num_threads of this run. Remove it to "
            "have them chosen again; the run then goes on, perhaps with other last bits"
        )
    return settings


def _measure_precision(config: Config, data: DataModule, model: Model, settings: Settings) -> Settings:
    return replace(settings, precision=_on_trial(config, data, model, settings, resolve_precision) or "fp32")


def _may_be_compiled(config: Config, model: Model) -> bool:
    """Inputs of many lengths would be compiled again and again, and of a module's own steps nothing is known."""
    of_one_size = model.structure.inputs.kind != "text" and not isinstance(model.module, pl.LightningModule)
    return config.trainer.compile == "auto" and config.trainer.strategy != "deepspeed" and of_one_size


def _try_compiling(config: Config, data: DataModule, model: Model, settings: Settings) -> bool:
    steps = total_steps(config, steps_per_epoch(config, data)) * settings.accumulate
    if steps < MANY:
        return False
    bf16 = settings.precision == "bf16"
    pays = _on_trial(config, data, model, settings, lambda task, batch: worth_compiling(task, batch, steps, bf16=bf16))
    return bool(pays)


def _on_trial(
    config: Config, data: DataModule, model: Model, settings: Settings, measure_fn: Callable[[Task, Batch], T]
) -> T | None:
    """What a function finds of a copy of the model with its task, and a batch, as they train.

    Where there is no memory for the batch, of a smaller one; None where one sample is too much. What to do about
    either is the training's to find.
    """
    torch.set_num_threads(settings.num_threads)
    device = torch.device("cuda" if uses_gpu(config) else "cpu")
    size = max(1, config.data.batch_size // settings.accumulate // settings.world_size)  # of one rank
    while size:
        task = task_around(prepare_module(copy.deepcopy(model.module), settings), config, data.spec, own_steps=False)
        task.prepare(data)
        task = task.to(device)
        task.channels_last = settings.channels_last
        batch = next(iter(task.train_loader(data, size, config.data.augment)))
        try:
            return measure_fn(task, task.transfer_batch_to_device(batch, device, 0))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        size //= 2
    return None


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
