"""This machine: where the process stands, processors, memory, limits, GPUs."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

from scaledl.distributed.environment import ClusterSpec
from scaledl.doctor.check import Check, worst
from scaledl.doctor.processes import Asked
from scaledl.run.machine import available_memory, num_cpus

GIB = 2**30
_FEW_FILES = 4096
_SHARED = Path("/dev/shm")  # noqa: S108  where PyTorch's data workers hand over their batches
_INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")

TORCH_CODE = """
import json, torch
gpus = []
for index in range(torch.cuda.device_count()):
    torch.ones(8, device=f"cuda:{index}").sum().item()
    gpus.append([torch.cuda.get_device_name(index), torch.cuda.get_device_properties(index).total_memory])
assert (torch.ones(2, 2) @ torch.ones(2, 2)).sum().item() == 8
print(json.dumps({"cuda": torch.version.cuda, "gpus": gpus}))
"""
TORCH_SECONDS = 120.0


def place(spec: ClusterSpec) -> Check:
    started = {"none": "one process", "env": "ranks of a launcher", "slurm": "tasks of srun"}[spec.launcher]
    job = f" in job {spec.job_id}" if spec.job_id else ""
    count = f": {spec.world_size} on {spec.num_nodes} node(s)" if spec.world_size > 1 else ""
    return Check("environment", "ok", f"{started}{job}{count}")


def processors(environ: Mapping[str, str]) -> Check:
    """CPUs that may be used against those of the machine and of the task."""
    allowed = num_cpus()
    what = f"{allowed} of {os.cpu_count()} CPUs may be used"
    wanted = environ.get("SLURM_CPUS_PER_TASK", "")
    if wanted.isdecimal() and int(wanted) > allowed:
        fix = "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK before srun, as slurm/train.sh does"
        return Check("processors", "warn", f"{what}, but the task was given {wanted}", fix)
    return Check("processors", "ok", what)


def memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = available_memory() or total
    checks = [Check("", "ok", f"{available / GIB:.1f} of {total / GIB:.1f} GiB free")]
    if available < 1 * GIB:
        checks.append(Check("", "warn", f"only {available / GIB:.1f} GiB are free", "end what else runs here"))
    if _SHARED.is_dir() and (free := shutil.disk_usage(_SHARED).free) < 0.25 * GIB:
        what = f"{_SHARED} has {free / GIB:.2f} GiB free, which data workers need"
        checks.append(Check("", "warn", what, "docker run --shm-size=8g, or data.num_workers=0"))
    return worst("memory", checks)


def limits() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    what = f"{soft} open files"
    if soft < _FEW_FILES:
        more = str(hard) if 0 < hard < 65536 else "65536"
        fix = f"ulimit -n {more} in the batch script" if hard < 0 or hard > soft else "ask for a higher hard limit"
        return Check("limits", "warn", f"{what} are few for many ranks and workers", fix)
    return Check("limits", "ok", what)


def interfaces(environ: Mapping[str, str]) -> Check:
    """The network interfaces that gloo and NCCL were told to use, if any."""
    here = [name for _, name in socket.if_nameindex()]
    checks = [Check("", "ok", f"interfaces {', '.join(here)}")]
    for variable in _INTERFACE_VARIABLES:
        for name in environ.get(variable, "").split(","):
            plain = name.strip().lstrip("^=").partition(":")[0]
            known = any(other.startswith(plain) for other in here) if variable.startswith("NCCL") else plain in here
            if plain and not known:
                what = f"{variable}={environ[variable]}, but there is no {plain} here, only {', '.join(here)}"
                checks.append(Check("", "fail", what, f"unset {variable}, or name an interface that every node has"))
    return worst("network", checks)


def ask_torch() -> Asked:
    return Asked.python(TORCH_CODE, TORCH_SECONDS)


def devices(asked: Asked) -> Check:
    """What PyTorch can compute on, tried in a process of its own: a broken driver hangs."""
    went_well, answer = asked.answer()
    if not went_well:
        fix = "look at nvidia-smi and the driver; CUDA_VISIBLE_DEVICES= trains on CPUs meanwhile"
        return Check("devices", "fail", f"PyTorch does not work here: {answer}", fix)
    found = json.loads(answer)
    gpus = [f"{name} ({size / GIB:.0f} GiB)" for name, size in found["gpus"]]
    if gpus:
        return Check("devices", "ok", f"{len(gpus)} GPU(s): {', '.join(dict.fromkeys(gpus))}")
    if any(Path("/proc/driver/nvidia/gpus").glob("*")):
        return Check("devices", "fail", *_unused_gpu(found["cuda"]))
    return Check("devices", "ok", "no GPU; CPUs")


def _unused_gpu(cuda: str | None) -> tuple[str, str]:
    if os.environ.get("CUDA_VISIBLE_DEVICES", "x").strip() in ("", "-1"):
        return "there is a GPU, but CUDA_VISIBLE_DEVICES hides it", "unset CUDA_VISIBLE_DEVICES to use it"
    if cuda is None:
        return "there is a GPU, but this PyTorch was built for CPUs", "install the CUDA build of torch"
    return f"there is a GPU that PyTorch (CUDA {cuda}) cannot use", "update the driver, or install a torch for its CUDA"
