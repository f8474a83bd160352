"""Steady training steps with every hand-picked precision, layout and compilation, against what `auto` chooses.

All through `scaledl.train.fit`: same data, same batches, one thread, CPU time, rounds in turns, after the steps in
which compilation happens. `auto` is told a training of 200 epochs of 60,000 images, long enough for that, and for
comparison one of a single epoch. Run: python benchmarks/precision.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from environment import machine, one_line, write_json
from scaledl.config import Config
from scaledl.console import get_console
from scaledl.data import DataModule
from scaledl.models.structure import new_model
from scaledl.run import Run
from scaledl.train import fit
from step import Clock, synthetic_data

MODEL = {"family": "resnet", "depth": 8, "width": 32}
BATCH_SIZE, WARMUP, STEPS = 128, 6, 30
FIRST = "fp32"
SETTINGS: dict[str, dict[str, Any]] = {
    FIRST: {"precision": "fp32", "channels_last": False, "compile": False},
    "fp32, compile": {"precision": "fp32", "channels_last": False, "compile": True},
    "fp32, channels_last": {"precision": "fp32", "channels_last": True, "compile": False},
    "bf16": {"precision": "bf16", "channels_last": False, "compile": False},
    "bf16, channels_last": {"precision": "bf16", "channels_last": True, "compile": False},
    "bf16, channels_last, compile": {"precision": "bf16", "channels_last": True, "compile": True},
    "auto, one epoch": {},
    "auto, 200 epochs": {"epochs": 200},
}


class Stop(pl.Callback):
    """Ends the training after the measured steps."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        trainer.should_stop = batch_idx >= STEPS - 1


def measure(trainer: dict[str, Any], data: DataModule) -> tuple[float, dict[str, Any]]:
    """Seconds of CPU of a steady step, and what `auto` came to."""
    clock = Clock(WARMUP, STEPS)
    config = Config.model_validate(
        {"model": MODEL, "data": {"batch_size": BATCH_SIZE}, "trainer": {"epochs": 1, "num_threads": 1, **trainer}}
    )
    with tempfile.TemporaryDirectory() as root:
        run = Run.create(Path(root), "bench", config=config)
        run.begin()
        fit(config, run, data, new_model(config.model, data.spec.in_shape, 10, 0), callbacks=[clock, Stop()])
        chosen = json.loads((run.checkpoints / "settings.json").read_text())
    return clock.seconds / (STEPS - 1 - WARMUP), {key: chosen[key] for key in ("precision", "channels_last", "compile")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    here = machine()
    get_console().configure(quiet=True)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    data = synthetic_data(469 * BATCH_SIZE)
    seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    chosen: dict[str, dict[str, Any]] = {}
    for _ in range(args.rounds):
        for name, trainer in SETTINGS.items():
            torch.compiler.reset()
            step, chosen[name] = measure(trainer, data)
            seconds[name].append(step)
    times = {
        name: statistics.median(a / b for a, b in zip(seconds[FIRST], values, strict=True))
        for name, values in seconds.items()
    }
    best = max(value for name, value in times.items() if not name.startswith("auto"))
    print(one_line(here))
    for name, value in times.items():
        micros = round(min(seconds[name]) * 1e6)
        print(f"{name:30} {micros:7} us a step (minimum)   {value:5.2f} times {FIRST}   {chosen[name]}")
    auto = times["auto, 200 epochs"]
    print(f"auto by fp32: {auto:.2f}   target >= 2.2\nauto by the best: {auto / best:.3f}   target >= 0.97")
    if args.json:
        rows = {key: {"times": times[key], "us": round(min(seconds[key]) * 1e6), **chosen[key]} for key in times}
        write_json(args.json, here, rounds=args.rounds, threads=1, model=MODEL, batch_size=BATCH_SIZE, rows=rows)


if __name__ == "__main__":
    main()
