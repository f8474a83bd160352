"""Wall time of `scaledl --help` and of a config error, as multiples of `python -c pass`.

    python benchmarks/startup.py [--rounds 30] [--json FILE]

The three commands take turns; each figure is the median of the ratios within a round, so a change in the
machine's load falls on all of them. Byte code is cached in a temporary folder, as an installed package's is.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from environment import machine, one_line, write_json

TARGETS = {"scaledl --help": 12.0, "config error": 30.0}
WARM_UP = 3


@dataclass(frozen=True)
class Figure:
    name: str
    ratio: float  # median of the ratios to `python -c pass`
    p50_ms: float
    target: float

    @property
    def met(self) -> bool:
        return self.ratio <= self.target


def commands(folder: Path) -> dict[str, tuple[list[str], int]]:
    """Name -> (command, exit code that it must have)."""
    scaledl = Path(sys.executable).with_name("scaledl")
    if not scaledl.exists():
        sys.exit(f"no scaledl beside {sys.executable}: install it with 'make test' and run .venv/bin/python")
    wrong = folder / "wrong.yaml"
    wrong.write_text("trainer:\n  epoch: 3\n")
    return {
        "python -c pass": ([sys.executable, "-c", "pass"], 0),
        "scaledl --help": ([str(scaledl), "--help"], 0),
        "config error": ([str(scaledl), "train", str(wrong), f"run.root={folder / 'runs'}"], 2),
    }


def wall_ms(command: list[str], exit_code: int, env: dict[str, str]) -> float:
    start = time.perf_counter()
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    elapsed = time.perf_counter() - start
    if result.returncode != exit_code:
        sys.exit(f"{' '.join(command)} exited {result.returncode}, expected {exit_code}:\n{result.stderr}")
    return 1000 * elapsed


def measure(rounds: int) -> list[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        todo = commands(folder)
        env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        env["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
        times = [{key: wall_ms(*spec, env) for key, spec in todo.items()} for _ in range(WARM_UP + rounds)][WARM_UP:]
    return [figure(key, target, times) for key, target in TARGETS.items()]


def figure(key: str, target: float, times: list[dict[str, float]]) -> Figure:
    ratio = statistics.median(turn[key] / turn["python -c pass"] for turn in times)
    return Figure(key, round(ratio, 2), round(statistics.median(turn[key] for turn in times), 1), target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    args = parser.parse_args()
    here = machine()
    figures = measure(args.rounds)
    if args.json:
        write_json(args.json, here, rounds=args.rounds, figures=[{**asdict(f), "met": f.met} for f in figures])
    print(f"{one_line(here)}, {args.rounds} rounds")
    for f in figures:
        verdict = "met" if f.met else "MISSED"
        print(f"{f.name:16} {f.ratio:6.2f} x python -c pass  ({f.p50_ms:.0f} ms; target {f.target:g}, {verdict})")


if __name__ == "__main__":
    main()
