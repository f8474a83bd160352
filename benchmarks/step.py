"""Steady training step through `scaledl.train.fit` against a hand-written PyTorch loop and stock Lightning.

Same data, same batches, every step's loss recorded in all three; one thread; CPU time (`time.process_time`), which a
busy neighbour does not move. Rounds are interleaved. Run: python benchmarks/step.py [--json FILE]
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from environment import machine, one_line, write_json
from scaledl.config import Config
from scaledl.console import get_console
from scaledl.data import Arrays, DataModule, DataSpec
from scaledl.models.structure import new_model
from scaledl.optim.optimizers import build_optimizer
from scaledl.run import Run
from scaledl.train import fit

# (model, batch size, steps a round, target ratio)
CASES = {
    "mlp": ({"family": "mlp", "hidden": [128]}, 64, 1500, 1.5),
    "resnet": ({"family": "resnet", "depth": 8, "width": 16}, 128, 40, 1.03),
}


def synthetic_data(samples: int) -> DataModule:
    """Random 28x28 images: the step does not care what is on them."""
    generator = torch.Generator().manual_seed(0)

    def arrays(n: int, start: int) -> Arrays:
        images = torch.randint(0, 256, (n, 28, 28, 1), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, 10, (n,), generator=generator)
        return Arrays(images, labels, torch.arange(start, start + n))

    spec = DataSpec("synthetic", (1, 28, 28), tuple("0123456789"), (0.5,), (0.29,), "0" * 64)
    return DataModule(spec, arrays(samples, 0), arrays(10, samples), arrays(10, samples + 10))


class Clock(pl.Callback):
    """CPU seconds from the end of the warm-up steps to the end of the epoch's last step."""

    def __init__(self, warmup: int, steps: int) -> None:
        self.warmup, self.steps, self.start, self.seconds = warmup, steps, 0.0, 0.0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:  # type: ignore[no-untyped-def]
        if batch_idx == self.warmup:
            self.start = time.process_time()
        elif batch_idx == self.steps - 1:
            self.seconds = time.process_time() - self.start


def time_scaledl(config: Config, data: DataModule, steps: int, warmup: int) -> float:
    clock = Clock(warmup, steps)
    with tempfile.TemporaryDirectory() as root:
        run = Run.create(Path(root), "bench", config=config)
        run.begin()
        model = new_model(config.model, data.spec.in_shape, 10, 0)
        fit(config, run, data, model, callbacks=[clock])
    return clock.seconds / (steps - 1 - warmup)


def time_plain(config: Config, data: DataModule, steps: int, warmup: int) -> float:
    module = new_model(config.model, data.spec.in_shape, 10, 0).module.train()
    channels_last = config.model.family == "resnet"
    if channels_last:
        module = module.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(module, config.optimizer)
    losses = []
    for index, batch in enumerate(data.train_loader(config.data.batch_size, config.data.augment, 0)):
        if index == warmup:
            start = time.process_time()
        elif index == steps - 1:
            break
        loss = F.cross_entropy(module(batch.x), batch.y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return (time.process_time() - start) / (steps - 1 - warmup)


class Stock(pl.LightningModule):
    """What a Lightning user writes, with the loss of every step logged."""

    def __init__(self, config: Config, module: torch.nn.Module) -> None:
        super().__init__()
        self.module, self.config = module, config

    def training_step(self, batch, batch_idx):  # type: ignore[no-untyped-def]
        loss = F.cross_entropy(self.module(batch.x), batch.y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return build_optimizer(self.module, self.config.optimizer)


def time_lightning(config: Config, data: DataModule, steps: int, warmup: int) -> float:
    clock = Clock(warmup, steps)
    module = new_model(config.model, data.spec.in_shape, 10, 0).module.train()
    if config.model.family == "resnet":
        module = module.to(memory_format=torch.channels_last)
    with tempfile.TemporaryDirectory() as root:
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=1,
            callbacks=[clock],
            logger=pl.loggers.CSVLogger(root),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Stock(config, module), data.train_loader(config.data.batch_size, config.data.augment, 0))
    return clock.seconds / (steps - 1 - warmup)


def run_case(name: str, rounds: int) -> dict[str, object]:
    model, batch_size, steps, target = CASES[name]
    warmup = max(5, steps // 10)
    config = Config.model_validate(
        {
            "model": model,
            "data": {"batch_size": batch_size},
            "trainer": {"epochs": 1, "precision": "fp32", "num_threads": 1},
        }
    )
    data = synthetic_data(steps * batch_size)
    timers = {"plain": time_plain, "scaledl": time_scaledl, "lightning": time_lightning}
    seconds: dict[str, list[float]] = {key: [] for key in timers}
    for _ in range(rounds):
        for key, timer in timers.items():
            # A script without Lightning does not have its NVML check, which costs each optimizer step some 30 us.
            os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0" if key == "plain" else "1"
            seconds[key].append(timer(config, data, steps, warmup))
    ratios = {
        key: statistics.median(a / b for a, b in zip(values, seconds["plain"], strict=True))
        for key, values in seconds.items()
    }
    micros = {key: round(min(values) * 1e6) for key, values in seconds.items()}
    return {
        "case": name,
        "model": model,
        "batch_size": batch_size,
        "us_per_step": micros,
        "ratio": ratios,
        "target": target,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    here = machine()
    torch.set_num_threads(1)
    get_console().configure(quiet=True)
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    results = [run_case(name, args.rounds) for name in args.case or CASES]
    print(one_line(here))
    for result in results:
        us, ratio = result["us_per_step"], result["ratio"]
        print(f"{result['case']:8} batch {result['batch_size']}")
        for key in us:
            print(f"  {key:10} {us[key]:8} us a step (minimum)   {ratio[key]:5.2f} of plain (median of paired rounds)")
        print(f"  target of scaledl: at most {result['target']} of plain")
    if args.json:
        write_json(args.json, here, rounds=args.rounds, threads=1, results=results)


if __name__ == "__main__":
    main()
