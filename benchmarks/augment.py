"""Images a second: augmentation of whole batches against a DataLoader with torchvision-v2 transforms, sample by sample.

Each setting makes normalised batches of random uint8 images, of Fashion-MNIST's size and of 224 x 224 in colour. Our
loader works in one thread, the DataLoader once in the process itself and once in worker processes, which stay. All take
turns (A B C A B C), since a shared machine drifts; ratios are taken round by round.

    python benchmarks/augment.py [--rounds 5] [--workers 0 2] [--seconds 1] [--json FILE]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from environment import machine, one_line, write_json
from scaledl.config.schema import AugmentConfig
from scaledl.data import Arrays, BatchLoader, DataSpec


class Size(NamedTuple):
    name: str
    height: int
    width: int
    channels: int
    batch_size: int


SIZES = (Size("28x28x1", 28, 28, 1, 256), Size("224x224x3", 224, 224, 3, 32))
SETTLE_S = 1.0  # workers of the measurement before still prepare the batches they were asked for
BILINEAR = v2.InterpolationMode.BILINEAR


def settings(size: Size) -> dict[str, tuple[AugmentConfig, list[Any]]]:
    """By name: our section, and torchvision's transforms for the same."""
    crop = 2 if size.height < 100 else 16
    affine = AugmentConfig(rotation=15, translation=0.1, scale=(0.9, 1.1), shear=5)
    return {
        "crop, flip": (
            AugmentConfig(crop=crop, flip=True),
            [v2.RandomCrop((size.height, size.width), padding=crop), v2.RandomHorizontalFlip()],
        ),
        "affine": (affine, [v2.RandomAffine(15, (0.1, 0.1), (0.9, 1.1), 5, interpolation=BILINEAR)]),
        "randaugment": (AugmentConfig(policy="randaugment"), [v2.RandAugment()]),
        "trivialaugment": (AugmentConfig(policy="trivialaugment"), [v2.TrivialAugmentWide()]),
    }


class PerSample(Dataset):
    """The customary way: an image tensor through torchvision-v2 transforms, sample by sample."""

    def __init__(self, arrays: Arrays, spec: DataSpec, transforms: list[Any]) -> None:
        self.inputs, self.labels = arrays.inputs.permute(0, 3, 1, 2).contiguous(), arrays.labels
        self.transform = v2.Compose(
            [*transforms, v2.ToDtype(torch.float32, scale=True), v2.Normalize(spec.mean, spec.std)]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.transform(self.inputs[index]), self.labels[index]


def make_data(size: Size, count: int) -> tuple[Arrays, DataSpec]:
    """Random images; what is done to them costs the same whatever they show."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, size.height, size.width, size.channels)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    arrays = Arrays(images, torch.zeros(count, dtype=torch.int64), torch.arange(count))
    values = (0.5,) * size.channels
    return arrays, DataSpec("random", (size.channels, size.height, size.width), ("a", "b"), values, values, "")


def images_per_second(batches: Iterable[Any], size: Size, seconds: float) -> float:
    """Of as many batches as fit in that time; starting the iteration counts."""
    time.sleep(SETTLE_S)
    start, count = time.perf_counter(), 0
    for _ in batches:
        count += size.batch_size
        if time.perf_counter() - start > seconds:
            break
    return count / (time.perf_counter() - start)


BatchesFn = Callable[[], Iterable[Any]]


def build_targets(size: Size, count: int, workers: Sequence[int]) -> dict[str, list[BatchesFn]]:
    """By name of the setting: our batches, then those of a DataLoader with each number of workers."""
    arrays, spec = make_data(size, count)
    targets: dict[str, list[BatchesFn]] = {}
    for name, (augment, transforms) in settings(size).items():
        ours = BatchLoader(arrays, spec, size.batch_size, shuffle=True, augment=augment)
        dataset = PerSample(arrays, spec, transforms)
        theirs = [
            DataLoader(dataset, size.batch_size, shuffle=True, num_workers=number, persistent_workers=number > 0)
            for number in workers
        ]
        targets[name] = [lambda loader=loader: loader for loader in (ours, *theirs)]
    return targets


def measure(size: Size, count: int, workers: Sequence[int], rounds: int, seconds: float) -> list[dict[str, Any]]:
    targets = build_targets(size, count, workers)
    speeds: dict[str, list[list[float]]] = {name: [[] for _ in fns] for name, fns in targets.items()}
    for round_ in range(rounds + 1):
        for name, batches_fns in targets.items():
            for batches_fn, values in zip(batches_fns, speeds[name], strict=True):
                value = images_per_second(batches_fn(), size, seconds)
                if round_:  # the first warms up and starts the workers
                    values.append(value)
    return [
        summarise(size, name, number, values[0], theirs)
        for name, values in speeds.items()
        for number, theirs in zip(workers, values[1:], strict=True)
    ]


def summarise(size: Size, name: str, workers: int, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    ratios = [own / other for own, other in zip(ours, theirs, strict=True)]
    return {
        "size": size.name,
        "name": name,
        "workers": workers,
        "ours_per_s": statistics.median(ours),
        "torchvision_per_s": statistics.median(theirs),
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    print(f"{'thousand images a second':28}{'workers':>8}{'scaledl':>10}{'torchvision':>13}{'ratio':>8}{'lowest':>8}")
    for row in rows:
        speeds = f"{row['ours_per_s'] / 1000:10.2f}{row['torchvision_per_s'] / 1000:13.3f}"
        ratios = f"{row['ratio_median']:8.1f}{row['ratio_min']:8.1f}"
        print(f"{row['size']:12}{row['name']:16}{row['workers']:8}{speeds}{ratios}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare augmentation of batches with that of samples.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each setting in a round")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="processes of each DataLoader")
    parser.add_argument("--threads", type=int, default=1, help="of scaledl, which prepares batches in its own process")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    here = machine()
    torch.set_num_threads(args.threads)
    counts = {"28x28x1": 50_000, "224x224x3": 600}
    rows = [row for size in SIZES for row in measure(size, counts[size.name], args.workers, args.rounds, args.seconds)]
    print_table(rows)
    print(one_line(here))
    print(f"{args.rounds} interleaved rounds, scaledl in {args.threads} threads")
    if args.json:
        chosen = {"rounds": args.rounds, "seconds": args.seconds, "workers": args.workers, "threads": args.threads}
        write_json(args.json, here, settings=chosen, rows=rows)


if __name__ == "__main__":
    main()
