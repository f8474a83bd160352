"""Everything that one process can find out about its own machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from scaledl.distributed.environment import ClusterSpec
from scaledl.doctor import machine, software, versions
from scaledl.doctor.check import Check, guarded
from scaledl.doctor.storage import storage


def local_checks(spec: ClusterSpec | Check, environ: Mapping[str, str], root: Path) -> list[Check]:
    """`spec`: where the process stands, or what is wrong with that. What takes long runs beside the rest."""
    torch, ray, deepspeed = machine.ask_torch(), software.ask_ray(), software.ask_deepspeed()
    looks: dict[str, Callable[[], Check]] = {
        "environment": lambda: spec if isinstance(spec, Check) else machine.place(spec),
        "python": versions.python,
        "packages": versions.packages,
        "processors": lambda: machine.processors(environ),
        "memory": machine.memory,
        "limits": machine.limits,
        "network": lambda: machine.interfaces(environ),
        "slurm": lambda: software.slurm(environ),
        "devices": lambda: machine.devices(torch),
        "ray": lambda: software.ray(ray, environ, Path.home()),
        "deepspeed": lambda: software.deepspeed(deepspeed),
        "storage": lambda: storage(root),
    }
    return [guarded(name, look) for name, look in looks.items()]
