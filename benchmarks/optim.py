"""A step of our FTRL-Proximal and AdaGrad dual averaging against `torch.optim.Adagrad(foreach=True)`.

The same parameters and gradients, about a million in two shapes of models; one thread; CPU time, in turns. With l1 and
l2, and without. Run: python benchmarks/optim.py [--json FILE]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.optim import Adagrad, Optimizer

from environment import machine, one_line, write_json
from scaledl.optim.adagrad_da import AdagradDA
from scaledl.optim.ftrl import FTRL

TARGET = 1.5
STEPS = 5  # in a round
PENALTIES = {"l1": 1e-3, "l2": 1e-3}
SHAPES = {
    "mlp": [(784, 900), (900,), (900, 320), (320,), (320, 10), (10,)],
    "resnet": [(64, 64, 3, 3), (64,), (64,), (64,)] * 27 + [(10, 64), (10,)],
}
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
    "adagrad": lambda parameters: Adagrad(parameters, lr=0.01, foreach=True),
    "ftrl": lambda parameters: FTRL(parameters, lr=0.01, **PENALTIES),
    "adagrad_da": lambda parameters: AdagradDA(parameters, lr=0.01, **PENALTIES),
    "ftrl, no penalties": lambda parameters: FTRL(parameters, lr=0.01),
    "adagrad_da, no penalties": lambda parameters: AdagradDA(parameters, lr=0.01),
    "adagrad, fused": lambda parameters: Adagrad(parameters, lr=0.01, fused=True),
}


def parameters_of(model: str) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(0.05 * torch.randn(shape, generator=generator)) for shape in SHAPES[model]]
    for parameter in parameters:
        parameter.grad = 0.01 * torch.randn(parameter.shape, generator=generator)
    return parameters


def seconds_of(optimizer: Optimizer) -> float:
    started = time.process_time()
    for _ in range(STEPS):
        optimizer.step()
    return (time.process_time() - started) / STEPS


def run_case(model: str, rounds: int) -> dict[str, object]:
    optimizers = {name: build(parameters_of(model)) for name, build in OPTIMIZERS.items()}
    for optimizer in optimizers.values():
        optimizer.step()
    seconds: dict[str, list[float]] = {name: [] for name in optimizers}
    for _ in range(rounds):
        for name, optimizer in optimizers.items():
            seconds[name].append(seconds_of(optimizer))
    ratios = {
        name: statistics.median(a / b for a, b in zip(values, seconds["adagrad"], strict=True))
        for name, values in seconds.items()
    }
    return {
        "case": model,
        "parameters": sum(parameter.numel() for parameter in parameters_of(model)),
        "us_per_step": {name: round(min(values) * 1e6) for name, values in seconds.items()},
        "ratio": {name: round(ratio, 3) for name, ratio in ratios.items()},
        "target": TARGET,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    here = machine()
    torch.set_num_threads(1)
    results = [run_case(model, args.rounds) for model in SHAPES]
    print(one_line(here))
    for result in results:
        print(f"{result['case']}, {result['parameters']:,} parameters")
        for name, micros in result["us_per_step"].items():  # type: ignore[attr-defined]
            ratio = result["ratio"][name]  # type: ignore[index]
            print(f"  {name:26} {micros:8} us a step (minimum)   {ratio:5.2f} of adagrad (median of paired rounds)")
    print(f"target of ftrl and adagrad_da: at most {TARGET}")
    if args.json:
        write_json(args.json, here, rounds=args.rounds, steps=STEPS, threads=1, results=results)


if __name__ == "__main__":
    main()
