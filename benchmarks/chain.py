"""The whole chain of a config against its own teacher: latency, file size, accuracy.

Trains and compresses (or takes what an earlier call left in `runs/`), then measures the exported file in turns with the
teacher in eager fp32 and with the teacher's own frozen fp32 TorchScript, one thread, batch 1 and 64. On two cores the
default config takes about an hour; `make bench` leaves it out. Run: python benchmarks/chain.py [CONFIG] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from environment import machine, one_line, write_json
from scaledl import api
from scaledl.bench import bench_targets
from scaledl.config import load_config, replace
from scaledl.run import Run

BATCH_SIZES = (1, 64)


def accuracy(run: Run) -> float:
    return run.manifest.metrics["test_accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", default="configs/resnet.yaml")
    parser.add_argument("--id", default="bench")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    here = machine()
    config = replace(load_config(args.config), {"run.id": args.id, "run.name": Path(args.config).stem})
    teacher, compressed = api.chain(config)
    files = [compressed.exports / "start.ts", compressed.exports / "model.ts"]
    rows = bench_targets(
        [teacher.path, *files], Path(config.run.root), batch_sizes=BATCH_SIZES, rounds=args.rounds, seconds=0.1
    )
    eager, frozen, small = (rows[i].latency for i in range(3))
    sizes = [path.stat().st_size for path in files]
    lost = 100 * (accuracy(teacher) - accuracy(compressed))
    figures = {
        "teacher test accuracy": (100 * accuracy(teacher), ">= 93.5 %"),
        "test accuracy lost": (lost, "<= 0.5 points"),
        "batch-1 latency, teacher eager fp32 / file": (eager.minimum_ms / small.minimum_ms, ">= 20"),
        "batch-1 latency, teacher frozen TorchScript / file": (frozen.minimum_ms / small.minimum_ms, ">= 10"),
        "file size, teacher frozen TorchScript / file": (sizes[0] / sizes[1], ">= 16"),
    }
    print(one_line(here))
    for row in rows:
        latency = row.latency
        print(
            f"{latency.name:60} batch {latency.batch_size:3}  min {latency.minimum_ms:8.3f}  p50 {latency.p50_ms:8.3f}"
            f"  p95 {latency.p95_ms:8.3f} ms{'  noisy' if latency.noisy else ''}"
        )
    print(f"CPU minutes of this process: {sum(os.times()[:2]) / 60:.1f}")
    for name, (value, target) in figures.items():
        print(f"{name:52} {value:7.2f}   target {target}")
    if args.json:
        write_json(args.json, here, figures=figures, rows=[row.to_dict() for row in rows])


if __name__ == "__main__":
    main()
