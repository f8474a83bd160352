"""Batches a second: scaledl's loader in memory against a DataLoader that transforms one sample at a time.

Both give Fashion-MNIST's training split as shuffled batches with a random crop (padding 2), a random horizontal flip
and normalisation. They take turns (A B C A B C), since a shared machine drifts; the ratio is taken round by round.

    python benchmarks/loader.py [--rounds 5] [--samples 12800] [--batch-size 256] [--json FILE]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from environment import machine, one_line, write_json
from scaledl.config.schema import AugmentConfig, DataConfig
from scaledl.data import Arrays, BatchLoader, DataModule, DataSpec, build_data
from scaledl.data.augment import CropFlip

AUGMENT = AugmentConfig(crop=2, flip=True)
BASELINE = "DataLoader, 2 workers"
OURS = "scaledl loader"
TARGET = 12.0


class PerSample(Dataset):
    """The customary way: an image tensor through torchvision-v2 transforms, sample by sample."""

    def __init__(self, arrays: Arrays, spec: DataSpec) -> None:
        self.inputs, self.labels = arrays.inputs.permute(0, 3, 1, 2).contiguous(), arrays.labels
        self.transform = v2.Compose(
            [
                v2.RandomCrop(arrays.inputs.shape[1:3], padding=AUGMENT.crop),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(spec.mean, spec.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.transform(self.inputs[index]), self.labels[index]


def bare_loop(arrays: Arrays, spec: DataSpec, batch_size: int) -> Callable[[], Iterable[Any]]:
    """The same gather and scaling with nothing around it: what the vectorised way costs at least."""
    crop_flip = CropFlip(arrays.inputs, AUGMENT, seed=0)
    order, scale = torch.randperm(len(arrays)), 1 / (255 * spec.std[0])

    def batches() -> Iterable[Any]:
        for index in order.split(batch_size):
            pixels = crop_flip(index, arrays.ids[index], 0)
            yield pixels.float().mul_(scale).sub_(spec.mean[0] / spec.std[0]), arrays.labels[index]

    return batches


def build_targets(data: DataModule, arrays: Arrays, batch_size: int) -> dict[str, Callable[[], Iterable[Any]]]:
    dataset = PerSample(arrays, data.spec)
    workers = DataLoader(dataset, batch_size, shuffle=True, num_workers=2, persistent_workers=True)
    single = DataLoader(dataset, batch_size, shuffle=True)
    ours = BatchLoader(arrays, data.spec, batch_size, shuffle=True, augment=AUGMENT)
    return {
        BASELINE: lambda: workers,
        "DataLoader, 0 workers": lambda: single,
        OURS: lambda: ours,
        "bare vectorised loop": bare_loop(arrays, data.spec, batch_size),
    }


def seconds_for(batches: Iterable[Any]) -> float:
    start = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - start


def measure(targets: dict[str, Callable[[], Iterable[Any]]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each pass over the samples; one pass of each beforehand warms up and starts the workers."""
    for batches_fn in targets.values():
        seconds_for(batches_fn())
    seconds: dict[str, list[float]] = {name: [] for name in targets}
    for _ in range(rounds):
        for name, batches_fn in targets.items():
            seconds[name].append(seconds_for(batches_fn()))
    return seconds


def summarise(seconds: dict[str, list[float]], samples: int) -> list[dict[str, Any]]:
    rows = []
    for name, values in seconds.items():
        ratios = [base / value for base, value in zip(seconds[BASELINE], values, strict=True)]
        rows.append(
            {
                "name": name,
                "min_s": min(values),
                "median_s": statistics.median(values),
                "samples_per_s": samples / statistics.median(values),
                "ratio_median": statistics.median(ratios),
                "ratio_min": min(ratios),
            }
        )
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    print(f"{'':24}{'min s':>9}{'median s':>10}{'samples/s':>12}{'ratio':>8}{'lowest':>8}")
    for row in rows:
        times = f"{row['min_s']:9.4f}{row['median_s']:10.4f}{row['samples_per_s']:12,.0f}"
        print(f"{row['name']:24}{times}{row['ratio_median']:8.1f}{row['ratio_min']:8.1f}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare data loaders on Fashion-MNIST.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=12_800, help="samples of one pass")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--root", help="folder of the Fashion-MNIST files")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    here = machine()
    torch.set_num_threads(1)
    data = build_data(DataConfig(source="fashion_mnist", root=args.root), seed=0)
    arrays = data.train.take(torch.arange(min(args.samples, len(data.train))))
    rows = summarise(measure(build_targets(data, arrays, args.batch_size), args.rounds), len(arrays))
    ratio = next(row["ratio_median"] for row in rows if row["name"] == OURS)
    print_table(rows)
    print(f"{OURS} against {BASELINE}: {ratio:.1f} times (target {TARGET:.0f})")
    print(one_line(here))
    print(f"{len(arrays)} samples, batch {args.batch_size}, {args.rounds} interleaved rounds, one thread")
    if args.json:
        settings = {"samples": len(arrays), "batch_size": args.batch_size, "rounds": args.rounds, "target": TARGET}
        write_json(args.json, here, settings=settings, ratio=ratio, rows=rows)


if __name__ == "__main__":
    main()
