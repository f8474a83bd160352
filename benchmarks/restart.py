"""Two ranks on this machine: from the start to the first step, from a stop signal to all ranks gone, and from there to
the first step of the resumed run.

Each round is a real `launch/local.sh`, stopped by SIGTERM after a checkpoint and started again with the same command.
Run: python benchmarks/restart.py [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from environment import machine, one_line, write_json

PROJECT = Path(__file__).resolve().parents[1]
CONFIG = """\
run: {id: one}
data: {source: digits, batch_size: 128}
model: {family: resnet, depth: 8}
trainer: {epochs: 1000, checkpoint_every_n_steps: 5, num_threads: 1, precision: fp32}
"""
# Goes into the ranks as sitecustomize.py: the moment of the first step.
WATCH = """\
import os, sys, time, importlib.abc, importlib.util

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "scaledl.tasks.base":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            step = module.Task.optimizer_step

            def optimizer_step(self, *arguments, **more):
                step(self, *arguments, **more)
                path = f"{os.environ['SCALEDL_BENCHMARK']}/first-{self.ranks.rank}"
                if not os.path.exists(path):
                    with open(path + ".new", "w") as file:
                        file.write(str(time.time()))
                    os.replace(path + ".new", path)

            module.Task.optimizer_step = optimizer_step

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""


def start(folder: Path) -> tuple[subprocess.Popen[bytes], float]:
    """The process, and the seconds until the first step of both ranks."""
    for rank in (0, 1):
        (folder / f"first-{rank}").unlink(missing_ok=True)
    environment = {
        **os.environ,
        "NPROC": "2",
        "SCALEDL_BENCHMARK": str(folder),
        "SCALEDL_VENV": str(Path(sys.executable).parents[1]),
        "PYTHONPATH": str(folder / "site"),
    }
    began = time.time()
    process = subprocess.Popen(
        ["bash", str(PROJECT / "launch" / "local.sh"), str(folder / "c.yaml")],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=(folder / "stderr").open("ab"),
        start_new_session=True,
    )
    while not all((folder / f"first-{rank}").exists() for rank in (0, 1)):
        if process.poll() is not None:
            raise SystemExit((folder / "stderr").read_text())
        time.sleep(0.005)
    return process, max(float((folder / f"first-{rank}").read_text()) for rank in (0, 1)) - began


def stop(process: subprocess.Popen[bytes]) -> float:
    """Seconds until no process of the session is left."""
    began = time.time()
    process.send_signal(signal.SIGTERM)
    code = process.wait()
    while session(process.pid):
        time.sleep(0.005)
    if code != 75:
        raise SystemExit(f"stopped with exit code {code} instead of 75")
    return time.time() - began


def session(number: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == number and fields[0] not in "ZX":
            found.append(int(stat.parent.name))
    return found


def measure() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "c.yaml").write_text(CONFIG)
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(WATCH)
        process, fresh = start(folder)
        while not list(folder.glob("runs/*/one/checkpoints/*.json")):
            time.sleep(0.05)
        gone = stop(process)
        process, resumed = start(folder)
        stop(process)
        return {"fresh": fresh, "gone": gone, "resumed": resumed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    here = machine()
    print(one_line(here))
    rounds = [measure() for _ in range(args.rounds)]
    results: dict[str, Any] = {
        "start_to_first_step_seconds": [round(each["fresh"], 2) for each in rounds],
        "signal_to_all_gone_seconds": [round(each["gone"], 2) for each in rounds],
        "resume_to_first_step_seconds": [round(each["resumed"], 2) for each in rounds],
    }
    for name, values in results.items():
        print(f"{name:30} median {statistics.median(values):.2f}, largest {max(values):.2f}")
    more = statistics.median(each["resumed"] - each["fresh"] for each in rounds)
    print(f"a resume takes {more:+.2f} s against a fresh start (target: at most 10 s more)")
    if args.json:
        write_json(args.json, here, ranks=2, rounds=args.rounds, resume_more_seconds=round(more, 2), results=results)


if __name__ == "__main__":
    main()
