"""Resident memory of each of two ranks under DDP and ZeRO 1 to 3, in bytes of the parameters, against the formulae.

AdamW in fp32: parameters, gradients and two moments are 4 times the parameters' bytes; ZeRO divides the moments
(stage 1), also the gradients (2), also the parameters (3) by the ranks (Rajbhandari et al. 2020, arXiv 1910.02054).
What counts is the growth of the process's resident size, as the kernel gives it, over what it was before the model was
built, in a process that has already trained a small model the same way. `steady` is at the end of a backward pass, with
all that the formula counts; `peak` is over all, from building the model to the trained model in hand, checkpoints too.

Run: python benchmarks/memory.py [--json FILE]
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

import two_ranks
from environment import machine, one_line, write_json
from scaledl.config import Config
from scaledl.distributed.ranks import Ranks, as_current
from scaledl.models.structure import new_model
from scaledl.run import Run
from scaledl.train import fit, follow
from step import synthetic_data
from two_ranks import RANKS

BATCH, STEPS, WARMUP = 32, 8, 3
CASES: dict[str, tuple[dict[str, Any], float]] = {
    "ddp": ({}, 4.0),
    "zero 1": ({"strategy": "deepspeed", "deepspeed": {"stage": 1}}, 2 + 2 / RANKS),
    "zero 2": ({"strategy": "deepspeed", "deepspeed": {"stage": 2}}, 1 + 3 / RANKS),
    "zero 3": ({"strategy": "deepspeed", "deepspeed": {"stage": 3}}, 4 / RANKS),
}
SMALL = [64]
LARGE = [2048] * 16


class Meter(pl.Callback):
    """Resident sizes at the end of every backward pass."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def on_after_backward(self, *_: Any) -> None:
        self.sizes.append(resident("VmRSS"))


METER = Meter()


def get_meter() -> Meter:
    return METER


def resident(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def begin() -> int:
    gc.collect()
    METER.sizes.clear()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew: proc(5)
    return resident("VmRSS")


def found(before: int) -> dict[str, int]:
    return {
        "steady": round(statistics.median(METER.sizes[WARMUP:])) - before,
        "peak": resident("VmHWM") - before,
    }


def config_of(case: str, hidden: list[int]) -> Config:
    trainer = {"epochs": 1, "precision": "fp32", "num_threads": 1, **CASES[case][0]}
    model = {"family": "mlp", "hidden": hidden}
    return Config.model_validate({"model": model, "data": {"batch_size": BATCH}, "trainer": trainer})


def train(case: str, hidden: list[int]) -> dict[str, int]:
    config, data = config_of(case, hidden), synthetic_data(BATCH * STEPS)
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(folder, "bench", kind="train", config=config)
        before = begin()
        with run.attempt():
            fit(config, run, data, new_model(config.model, data.spec.in_shape, 10, 0), callbacks=[METER])
            run.finish("complete")
        return found(before)


def follow_fit(message: dict[str, Any], figures: list[dict[str, int]]) -> None:
    data = synthetic_data(BATCH * STEPS)
    follow._data[data.spec.fingerprint] = data  # other ranks have no source to load it from
    message["callbacks"] = [{"name": "benchmark_meter"}]
    before = begin()
    follow.follow_fit(message)
    figures.append(found(before))


def be_rank(rank: int, port: int, case: str) -> None:
    from scaledl.config.registry import CALLBACKS

    CALLBACKS.register("benchmark_meter", f"{__name__}:get_meter")
    ranks = two_ranks.meet(rank, port)
    figures: list[dict[str, int]] = []
    with as_current(ranks):
        if rank:
            code = ranks.follow({follow.FIT: lambda message: follow_fit(message, figures)})
            two_ranks.tell(figures[-1])
            sys.exit(code)
        lead(ranks, case)


def lead(ranks: Ranks, case: str) -> None:
    train(case, SMALL)
    two_ranks.tell(train(case, LARGE))
    ranks.close(0)


def measure(case: str) -> dict[str, Any]:
    figures = two_ranks.run("--case", case)
    module = new_model(config_of(case, LARGE).model, (1, 28, 28), 10, 0).module
    size = sum(parameter.nbytes for parameter in module.parameters())
    formula = CASES[case][1]
    steady = [rank["steady"] / size for rank in figures]
    peak = [rank["peak"] / size for rank in figures]
    return {
        "case": case,
        "parameter_bytes": size,
        "formula": formula,
        "steady": [round(value, 3) for value in steady],
        "against_formula": round(max(steady) / formula, 3),
        "peak": [round(value, 3) for value in peak],
        "peak_by_steady": round(max(a / b for a, b in zip(peak, steady, strict=True)), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", choices=CASES)
    two_ranks.add_arguments(parser)
    args = parser.parse_args()
    if args.rank is not None:
        return be_rank(args.rank, args.port, args.case)
    here = machine()
    print(one_line(here))
    results = []
    for case in [args.case] if args.case else CASES:
        results.append(result := measure(case))
        print(
            f"{case:7} formula {result['formula']:.2f}  steady {result['steady']} "
            f"({result['against_formula']:.3f} of it)  peak {result['peak']} ({result['peak_by_steady']:.2f} of steady)"
        )
    if args.json:
        write_json(args.json, here, ranks=RANKS, batch_size=BATCH, optimizer="adamw", results=results)
    return None


if __name__ == "__main__":
    main()
