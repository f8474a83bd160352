"""Two ranks over gloo: the training step through scaledl against hand-written DDP, and the stall of a checkpoint.

Both ranks are processes of this machine with one thread each. In every round each way trains the same steps on the same
batches, with every step's loss read; what is timed is rank 0's wall clock between barriers. `compute` is the same loop
without any exchange of gradients. Run: python benchmarks/ranks.py [--json FILE]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import two_ranks
from environment import machine, one_line, write_json
from scaledl.config import Config
from scaledl.data import DataModule
from scaledl.distributed.ranks import Ranks, as_current
from scaledl.models.structure import new_model
from scaledl.optim.optimizers import build_optimizer
from scaledl.run import Run
from scaledl.train import fit, follow
from step import synthetic_data

# (model, batch size over both ranks, steps a round)
CASES: dict[str, tuple[dict[str, Any], int, int]] = {
    "resnet": ({"family": "resnet", "depth": 8, "width": 16}, 256, 16),
    "mlp": ({"family": "mlp", "hidden": [128]}, 128, 300),
    "mlp 50 MB": ({"family": "mlp", "hidden": [2304, 2304, 2304]}, 256, 14),
}
WARMUP = 4


class Clock(pl.Callback):
    """Wall seconds of every step after the warm-up."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.marks.append(time.perf_counter())

    @property
    def steps(self) -> list[float]:
        pairs = zip(self.marks[WARMUP - 1 : -1], self.marks[WARMUP:], strict=True)
        return [after - before for before, after in pairs]


def config_of(name: str, **changes: Any) -> Config:
    model, batch_size, _ = CASES[name]
    trainer = {"epochs": 1, "precision": "fp32", "num_threads": 1, "channels_last": False, **changes}
    return Config.model_validate({"model": model, "data": {"batch_size": batch_size}, "trainer": trainer})


def time_hand(config: Config, data: DataModule, ranks: Ranks, way: str) -> float:
    module = new_model(config.model, data.spec.in_shape, 10, 0).module.train()
    wrapped: nn.Module = module
    if way == "ddp":
        wrapped = DistributedDataParallel(module)
    elif way == "ddp, tuned":
        wrapped = DistributedDataParallel(module, gradient_as_bucket_view=True, static_graph=True)
    optimizer = build_optimizer(module, config.optimizer)
    losses = []
    loader = data.train_loader(
        config.data.batch_size, config.data.augment, 0, rank=ranks.rank, world_size=ranks.world_size
    )
    clock = Clock()
    ranks.barrier()
    for batch in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(wrapped(batch.x.contiguous()), batch.y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        clock.on_train_batch_end()
    ranks.barrier()
    return statistics.fmean(clock.steps)


def time_scaledl(config: Config, data: DataModule, ranks: Ranks) -> list[float]:
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(folder, "bench", kind="train", config=config)
        with run.attempt():
            fit(config, run, data, new_model(config.model, data.spec.in_shape, 10, 0), callbacks=[clock])
            run.finish("complete")
    return clock.steps


def lead(ranks: Ranks, rounds: int) -> list[dict[str, Any]]:
    return [measure(name, ranks, rounds) for name in CASES]


def measure(name: str, ranks: Ranks, rounds: int) -> dict[str, Any]:
    config, data = config_of(name), data_of(name)
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for way in ("compute", "ddp", "ddp, tuned"):
            ranks.call("hand", {"case": name, "way": way})
            found.setdefault(way, []).append(time_hand(config, data, ranks, way))
        found.setdefault("scaledl", []).append(statistics.fmean(time_scaledl(config, data, ranks)))
    best = min(("ddp", "ddp, tuned"), key=lambda way: statistics.median(found[way]))
    saving = time_scaledl(config_of(name, checkpoint_every_n_steps=CASES[name][2] // 2), data, ranks)
    return {
        "case": name,
        "model": CASES[name][0],
        "batch_size": CASES[name][1],
        "ms_per_step": {way: round(1e3 * statistics.median(values), 3) for way, values in found.items()},
        "against": best,
        "ratio": paired(found["scaledl"], found[best]),
        "efficiency": {way: paired(found["compute"], values) for way, values in found.items() if way != "compute"},
        "checkpoint_stall_in_steps": round(max(saving) / statistics.median(saving) - 1, 2),
    }


def paired(a: list[float], b: list[float]) -> float:
    return round(statistics.median(x / y for x, y in zip(a, b, strict=True)), 3)


def data_of(name: str) -> DataModule:
    _, batch_size, steps = CASES[name]
    data = synthetic_data(batch_size * steps)
    follow._data[data.spec.fingerprint] = data  # other ranks have no source to load it from
    return data


def hand(message: dict[str, Any], ranks: Ranks) -> None:
    time_hand(config_of(message["case"]), data_of(message["case"]), ranks, message["way"])


def follow_fit(message: dict[str, Any]) -> None:
    [name] = [
        name
        for name, (model, *_) in CASES.items()
        if config_of(name).model.model_dump(mode="json") == message["config"]["model"]
    ]
    data_of(name)
    follow.follow_fit(message)


def be_rank(rank: int, port: int, rounds: int) -> None:
    ranks = two_ranks.meet(rank, port)
    with as_current(ranks):
        if rank:
            sys.exit(ranks.follow({follow.FIT: follow_fit, "hand": lambda message: hand(message, ranks)}))
        two_ranks.tell(lead(ranks, rounds))
        ranks.close(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    two_ranks.add_arguments(parser)
    args = parser.parse_args()
    if args.rank is not None:
        return be_rank(args.rank, args.port, args.rounds)
    here = machine()
    results, _ = two_ranks.run("--rounds", str(args.rounds))
    print(one_line(here))
    for result in results:
        print(f"{result['case']}, batch {result['batch_size']} on two ranks")
        for way, ms in result["ms_per_step"].items():
            efficiency = f"  efficiency {result['efficiency'][way]:.3f}" if way != "compute" else ""
            print(f"  {way:12} {ms:9.3f} ms a step{efficiency}")
        print(f"  scaledl is {result['ratio']:.3f} of {result['against']} (target: at most 1.05)")
        print(f"  a checkpoint stalls training by {result['checkpoint_stall_in_steps']} steps (target: at most 1)")
    if args.json:
        write_json(args.json, here, rounds=args.rounds, ranks=2, threads_per_rank=1, results=results)
    return None


if __name__ == "__main__":
    main()
