"""Preparing a folder of JPEG files against Pillow alone decoding the same files on the same cores.

    python benchmarks/prepare.py --files 100000

Prints one line and, with `--json`, adds it to benchmarks/results/prepare.json. The files, 300x400 pixels, are made
first: cut-outs of clouds whose detail falls with its frequency, as that of photographs does. Pillow alone: threads on
all cores that open, decode to RGB and forget. Ours also finds copies, resizes, and writes. Both read warm files, in
turns, each time all of them. The ratio of wall times is what a machine of one's own gives; on a shared one that of CPU
times, of which each has its minimum, says more.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from environment import machine, one_line, versions
from scaledl.config.schema import PrepareConfig
from scaledl.console import get_console
from scaledl.data.prepare.images import Pixels
from scaledl.data.prepare.run import prepare

RESULTS = Path(__file__).parent / "results" / "prepare.json"
CLASSES = 100


def clouds(seed: int, side: int = 800) -> Pixels:
    """uint8 [side, side, 3]: noise with amplitudes of one by frequency (Field 1987)."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij")
    fall = 1 / np.maximum(np.hypot(y, x), 1 / side)
    channels = [np.fft.irfft2(np.fft.rfft2(rng.normal(size=(side, side))) * fall) for _ in range(3)]
    mixed = np.stack(channels, axis=-1) @ np.array([[1, 0.8, 0.7], [0, 0.5, 0.3], [0, 0, 0.4]])
    return (128 + 60 * mixed / mixed.std()).clip(0, 255).astype(np.uint8)


def make(root: Path, files: int, height: int, width: int) -> list[Path]:
    paths = [root / f"class-{i % CLASSES:03d}" / f"{i:06d}.jpg" for i in range(files)]
    for i in range(CLASSES):
        (root / f"class-{i:03d}").mkdir()
    sheets = [clouds(seed) for seed in range(8)]

    def one(numbered: tuple[int, Path]) -> None:
        i, path = numbered
        rng = np.random.default_rng(i)
        y, x = rng.integers(0, 800 - height), rng.integers(0, 800 - width)
        cut = sheets[i % len(sheets)][y : y + height, x : x + width]
        Image.fromarray(np.roll(cut, rng.integers(0, width), axis=1)).save(path, quality=90)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, enumerate(paths)))
    return paths


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of all of this process's threads."""
    began, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - used


def pillow_alone(paths: Sequence[Path]) -> None:
    def one(path: Path) -> None:
        with Image.open(path) as image:
            image.convert("RGB").load()

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(one, paths))


def ours(root: Path, out: Path, size: int) -> tuple[float, float]:
    seconds = timed(lambda: prepare(root, out, PrepareConfig(size=size)))
    shutil.rmtree(out)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=128, help="height and width that 300x400 pixels become")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help=f"add the figures to {RESULTS.name}")
    args = parser.parse_args()
    here = machine()
    print(one_line(here))
    get_console().configure(quiet=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "source"
        root.mkdir()
        paths = make(root, args.files, 300, 400)
        size = sum(path.stat().st_size for path in paths) / len(paths)
        pairs = [
            (timed(lambda: pillow_alone(paths)), ours(root, Path(folder) / "out", args.size))
            for _ in range(args.rounds)
        ]
    ratio = statistics.median(theirs[0] / own[0] for theirs, own in pairs)
    cpu = min(theirs[1] for theirs, _ in pairs) / min(own[1] for _, own in pairs)
    rates = [args.files / statistics.median(seconds for seconds, _ in times) for times in zip(*pairs, strict=True)]
    print(f"Pillow alone {rates[0]:,.0f} files of {size / 1e3:.0f} kB a second, prepared {rates[1]:,.0f}: {ratio:.2f}")
    print(f"CPU time of Pillow alone, of that of preparing: {cpu:.2f}")
    if args.json:
        command = f"python benchmarks/prepare.py --files {args.files} --size {args.size}"
        figures = {
            "pillow_alone": rates[0],
            "prepared": rates[1],
            "ratio": ratio,
            "cpu_ratio": cpu,
            "kB a file": size / 1e3,
        }
        known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        known[str(args.size)] = {"command": command, "machine": here, "versions": versions(), **figures}
        RESULTS.write_text(json.dumps(known, indent=2) + "\n")


if __name__ == "__main__":
    main()
