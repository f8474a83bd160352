"""The only place that builds a Trainer, and what keeps Lightning quiet, cheap and out of the signals."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.profilers import (
    AdvancedProfiler,
    PassThroughProfiler,
    Profiler,
    PyTorchProfiler,
    SimpleProfiler,
)

from scaledl.checkpoint import CheckpointWriter
from scaledl.config import Config
from scaledl.distributed.lightning import build_strategy
from scaledl.distributed.ranks import Ranks
from scaledl.run import Run
from scaledl.train.settings import Settings, uses_gpu


def build_trainer(
    config: Config, settings: Settings, run: Run, ranks: Ranks, writer: CheckpointWriter, callbacks: list[pl.Callback]
) -> pl.Trainer:
    """Raises UsageError where Lightning cannot use a callback of one's own as it is."""
    gpu = uses_gpu(config)
    strategy = build_strategy(config, ranks, gpu=gpu)
    alone = isinstance(strategy, str)
    with quiet_lightning():
        trainer = pl.Trainer(
            accelerator="gpu" if gpu else "cpu",
            strategy=strategy,
            devices=ranks.spec.local_world_size if ranks.spec else 1,
            num_nodes=ranks.spec.num_nodes if ranks.spec else 1,
            precision="bf16-mixed" if settings.precision == "bf16" else "32-true",
            max_epochs=config.trainer.epochs,
            accumulate_grad_batches=settings.accumulate,
            # DeepSpeed clips by itself
            gradient_clip_val=config.trainer.gradient_clip if config.trainer.strategy != "deepspeed" else None,
            sync_batchnorm=config.trainer.sync_batchnorm,
            callbacks=callbacks,
            plugins=[writer, *([LightningEnvironment()] if alone else [])],
            profiler=_profiler(config, run, ranks),
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    # Its SIGTERM handler would end the run at the next step without a checkpoint; there is no public switch.
    trainer._signal_connector.register_signal_handlers = _no_handlers  # type: ignore[method-assign]
    # And it asks all ranks for it at every step, which costs more than a small step does.
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _no_handlers  # type: ignore[method-assign]
    return trainer


def _no_handlers() -> None: ...


def _profiler(config: Config, run: Run, ranks: Ranks) -> Profiler:
    """Its tables go to RUN/fit-profile-RANK-….txt when the training has ended."""
    kind = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": _QuietPyTorchProfiler}.get(
        config.trainer.profiler
    )
    return _NullProfiler() if kind is None else kind(dirpath=run.path, filename=f"profile-{ranks.rank}")


class _QuietPyTorchProfiler(PyTorchProfiler):
    """Without what torch's own profiler library prints at each start and stop, and what is said of cycles of steps."""

    def start(self, action_name: str) -> None:
        with _quiet_kineto(), _quiet_cycles():
            super().start(action_name)

    def stop(self, action_name: str) -> None:
        with _quiet_kineto(), _quiet_cycles():
            super().stop(action_name)


@contextmanager
def _quiet_cycles() -> Iterator[None]:
    """A few steps are recorded at a time, as Lightning has it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The PyTorch Profiler default schedule will be overridden")
        warnings.filterwarnings("ignore", message="Warning: Profiler clears events")
        yield


@contextmanager
def _quiet_kineto() -> Iterator[None]:
    """It reads its level once, when it first records; a level that the environment has already is kept."""
    name = "KINETO_LOG_LEVEL"
    if name in os.environ:
        yield
        return
    os.environ[name] = "99"
    try:
        yield
    finally:
        os.environ.pop(name, None)


class _NullProfiler(PassThroughProfiler):
    """Lightning asks for a profiling context twenty times a step: hand out the same empty one."""

    class _Shared:
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    _shared = _Shared()

    def profile(self, action_name: str) -> Any:
        return self._shared


@contextmanager
def cheap_device_checks(config: Config) -> Iterator[None]:
    """Lightning makes torch look for a GPU through NVML, which every optimizer step repeats: 30 us without one."""
    name = "PYTORCH_NVML_BASED_CUDA_CHECK"
    before = os.environ.get(name)
    if not uses_gpu(config):
        os.environ[name] = "0"
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Hold back Lightning's announcements and its use of a deprecated torch name; other warnings come through."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    loggers += [logging.getLogger(f"{logger.name}.utilities.rank_zero") for logger in loggers]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
            warnings.filterwarnings("ignore", message=".*srun. command is available")  # on a login node
            # DeepSpeed calls these in every step
            warnings.filterwarnings("ignore", message=".*(all_gather_into|reduce_scatter)_tensor. is deprecated")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def own_interrupts() -> Iterator[None]:
    """Lightning turns a second Ctrl-C into `sys.exit(1)` and ignores all later ones: undo both."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from stop
