"""What a run stands on: packages, hardware, revision. Nothing heavy is imported to find out."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("scaledl", "torch", "pytorch-lightning", "torch-pruning", "numpy", "pydantic", "safetensors")


@cache
def package_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that decide numbers."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def hardware() -> dict[str, Any]:
    """Processor, CPUs this process may use, memory in bytes, GPU names."""
    return {
        "system": platform.platform(),
        "machine": platform.machine(),
        "processor": _first_match(Path("/proc/cpuinfo"), r"model name\s*:\s*(.+)") or platform.processor(),
        "cpus": num_cpus(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": _gpus(),
    }


def num_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    found = _first_match(Path("/proc/meminfo"), r"MemAvailable:\s*(\d+) kB")
    return int(found) * 1024 if found else None


def world_size() -> int:
    """Ranks of this job as its launcher says, else 1."""
    text = os.environ.get("WORLD_SIZE", "")
    return int(text) if text.isdecimal() and int(text) > 0 else 1


def git_revision() -> str | None:
    """Commit of the working directory's project, with `-dirty` when tracked files differ; None without git."""
    return _git_revision(str(Path.cwd()))


@cache
def _git_revision(directory: str) -> str | None:
    command = ["git", "-c", "core.fsmonitor=false", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # looking must not write into the project
    try:
        done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _gpus() -> list[str]:
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return [_first_match(file, r"Model:\s*(.+)") or "unknown" for file in files]


def _first_match(path: Path, pattern: str) -> str | None:
    try:
        match = re.search(pattern, path.read_text(errors="replace"))
    except OSError:
        return None
    return match[1].strip() if match else None
