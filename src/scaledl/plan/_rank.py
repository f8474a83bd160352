"""A rank on trial, run as `python -m scaledl.plan._rank REQUEST RESULT`: some real steps, and what they took.

It does what `scaledl train` does, in that order, so its peaks are those of the real thing.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from scaledl.config import Config
    from scaledl.data import DataModule
    from scaledl.distributed.ranks import Ranks

_BORN = time.monotonic()
MIN_STEPS, MAX_STEPS, WARM_UP = 8, 400, 3
ENOUGH_SECONDS, TOO_LONG_SECONDS = 2.0, 30.0
EVAL_BATCHES = 8  # as many show the peak; the time of all follows from theirs


def main(request_path: str, result_path: str) -> None:
    from scaledl.config import Config
    from scaledl.console import get_console
    from scaledl.errors import ScaledlError

    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    get_console().configure(json=True, quiet=True)
    try:
        result = try_rank(Config.model_validate(request["config"]), request["eval_batch_size"])
    except ScaledlError as error:
        result = {"error": str(error), "exit_code": error.exit_code}
    Path(result_path).write_text(json.dumps(result), encoding="utf-8")


def try_rank(config: Config, eval_batch_size: int) -> dict[str, Any]:
    """`config` holds the rank's share of the batches; `eval_batch_size` is for the final evaluation, by rank 0."""
    import torch
    from tensorboard.compat.proto import event_pb2, summary_pb2  # noqa: F401  # a part of the process, as below

    from scaledl.config import replace as replace_config
    from scaledl.data import build_data
    from scaledl.distributed.ranks import as_current
    from scaledl.evaluate import evaluate_split
    from scaledl.models.structure import save_model
    from scaledl.run import Run
    from scaledl.tasks.model import model_for
    from scaledl.train import fit
    from scaledl.train.settings import FILE, uses_gpu

    gpu = uses_gpu(config)
    ranks = _only_rank(config, gpu=gpu)
    meter = Meter(gpu)
    meter.begin()
    data = build_data(config.data, config.run.seed)
    meter.end("load")
    held = meter.resident()
    short, val_share = _shortened(data, "val", config.data.eval_batch_size)
    short, test_share = _shortened(short, "test", eval_batch_size)
    model = model_for(config, data.spec)
    run = Run.open_or_create(Path(config.run.root), "plan", "plan", kind="train", config=config)
    watch = _watch(meter)
    with run.attempt(), as_current(ranks):
        trained = fit(config, run, short, model, callbacks=(watch,)).model
        meter.end("save")
        started = time.monotonic()
        save_model(trained, run.model_dir)
        finished = replace_config(config, {"data.eval_batch_size": eval_batch_size})
        evaluate_split(trained.module, short, finished, "test")
        run.finish("complete")
    meter.end("finish")
    settings = json.loads((run.checkpoints / FILE).read_bytes())
    return {
        "gpu": meter.gpu,
        "device": torch.cuda.get_device_name() if meter.gpu else "cpu",
        "precision": settings["precision"],
        **_sizes(model.module),
        "samples": {name: len(getattr(data, name)) for name in ("train", "val", "test")},
        "process_bytes": meter.process,
        "data_bytes": max(0, held - meter.process),
        "host_peaks": meter.host_peaks,
        "gpu_peaks": meter.gpu_peaks,
        "seconds": {
            "start": watch.began - _BORN,
            "step": median(watch.times[min(WARM_UP, len(watch.times) - 1) :]),
            "validate": median(watch.validations) / val_share,
            "finish": (time.monotonic() - started) / test_share,
        },
    }


def _shortened(data: DataModule, split: Literal["val", "test"], batch_size: int) -> tuple[DataModule, float]:
    """With the first batches of a split only, and what share of it these are."""
    import torch

    whole = getattr(data, split)
    kept = min(len(whole), EVAL_BATCHES * batch_size)
    return replace(data, **{split: whole.take(torch.arange(kept))}), kept / len(whole)


class Meter:
    """Peaks of memory, phase by phase: resident on the host, allocated on the GPU."""

    def __init__(self, gpu: bool) -> None:
        self.gpu = gpu
        self.process = 0
        self.host_peaks: dict[str, int] = {}
        self.gpu_peaks: dict[str, int] = {}

    def begin(self) -> None:
        self.process = self.resident()
        self._reset()

    def end(self, phase: str) -> None:
        """What was the peak since the last phase ended; of one that comes several times, the largest."""
        self.host_peaks[phase] = max(self.host_peaks.get(phase, 0), _status("VmHWM"))
        if self.gpu:
            import torch

            self.gpu_peaks[phase] = max(self.gpu_peaks.get(phase, 0), torch.cuda.max_memory_allocated())
        self._reset()

    @staticmethod
    def resident() -> int:
        return _status("VmRSS")

    def _reset(self) -> None:
        """Where the kernel does not allow it, later phases show the largest peak so far: the total stays right."""
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        if self.gpu:
            import torch

            torch.cuda.reset_peak_memory_stats()


def _status(name: str) -> int:
    """Bytes, from /proc/self/status (proc(5))."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def _watch(meter: Meter) -> Any:
    import pytorch_lightning as pl

    class Watch(pl.Callback):
        """Times optimizer steps and validations, and ends the training when it has seen enough of them."""

        def __init__(self) -> None:
            self.began = self._last = 0.0
            self.times: list[float] = []
            self.validations: list[float] = []
            self._steps = 0

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            meter.end("start")
            self.began = self._last = time.monotonic()

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == self._steps:
                return
            self._steps, now = trainer.global_step, time.monotonic()
            self.times.append(now - self._last)
            self._last = now
            spent = sum(self.times)
            enough = len(self.times) >= MIN_STEPS and spent >= ENOUGH_SECONDS
            if enough or len(self.times) >= MAX_STEPS or (len(self.times) > WARM_UP and spent >= TOO_LONG_SECONDS):
                trainer.should_stop = True

        def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
            meter.end("train")
            self._last = time.monotonic()

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            meter.end("validate")
            self.validations.append(time.monotonic() - self._last)
            self._last = time.monotonic()

    return Watch()


def _sizes(module: Any) -> dict[str, int]:
    parameters = list(module.parameters())
    return {
        "parameters": sum(p.numel() for p in parameters),
        "parameter_bytes": sum(p.nbytes for p in parameters),
        "largest_bytes": max((p.nbytes for p in parameters if p.requires_grad), default=0),
        "trainable_bytes": sum(p.nbytes for p in parameters if p.requires_grad),
        "buffer_bytes": sum(b.nbytes for b in module.buffers()),
    }


def _only_rank(config: Config, *, gpu: bool) -> Ranks:
    """This process alone; under DeepSpeed in a process group of one, so that its engine does what it does in many."""
    from scaledl.distributed.ranks import Ranks, join

    if config.trainer.strategy != "deepspeed":
        return Ranks()
    import torch

    from scaledl.distributed.environment import detect_cluster
    from scaledl.distributed.rendezvous import open_store

    if not gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed  # noqa: F401  # a part of the process

    device = torch.device("cuda", 0) if gpu else None
    spec = detect_cluster({})
    store = open_store(spec, 60.0)
    return join(spec, store, backend="nccl" if gpu else "gloo", device=device, timeout_seconds=600)


if __name__ == "__main__":
    main(*sys.argv[1:3])
