"""What stands beside every figure: the machine, the versions and the command."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("scaledl", "torch", "pytorch-lightning", "torch-pruning", "torchvision", "ray", "optuna")


def machine() -> dict[str, Any]:
    """Processor, cores, load of the last minute, system. Call it first: later the load is the benchmark's own."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_json(path: Path, machine: dict[str, Any], **figures: Any) -> None:
    """Write the figures, with `machine` and versions and the command as it was typed."""
    document = {"command": shlex.join(["python", *sys.argv]), "machine": machine, "versions": versions(), **figures}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def one_line(machine: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in {**machine, **versions()}.items())
