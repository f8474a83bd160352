"""What a rank tells about itself before training: everything that makes ranks hang or differ later."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import scaledl
from scaledl.config import Config
from scaledl.distributed.environment import ClusterSpec
from scaledl.distributed.network import address_towards, interface_towards, own_address
from scaledl.distributed.rendezvous import master_address
from scaledl.run.machine import git_revision, num_cpus, package_versions

GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"


@dataclass(frozen=True)
class Report:
    """`machine`: the same for ranks that can use the loopback. `own`: the address that gloo takes by itself, `towards`
    and `interface`: how this rank reaches the master. `time`: seconds since 1970, when it was sent."""

    rank: int
    node: int
    host: str
    machine: str
    own: str
    master: str
    towards: str | None
    interface: str | None
    gloo_interface: str | None
    config: dict[str, Any]
    versions: dict[str, str]
    code: str
    revision: str | None
    gpus: int
    cpus: int
    time: float


def report_of(spec: ClusterSpec, config: Config, gpus: int) -> Report:
    """This rank's. Raises UsageError when the master does not resolve."""
    master = master_address(spec)
    return Report(
        rank=spec.rank,
        node=spec.node_rank,
        host=spec.host,
        machine=machine_id(),
        own=own_address(),
        master=master,
        towards=address_towards(master),
        interface=interface_towards(master),
        gloo_interface=os.environ.get(GLOO_INTERFACE) or None,
        config=config.model_dump(mode="json"),
        versions=package_versions(),
        code=code_digest(),
        revision=git_revision(),
        gpus=gpus,
        cpus=num_cpus(),
        time=time.time(),
    )


def machine_id() -> str:
    """The boot and the network namespace: two ranks that agree in it have the same loopback."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/net').readlink()}"
    return socket.gethostname()


@cache
def code_digest() -> str:
    """SHA-256 over the names and bytes of scaledl's own source files, in short."""
    root = Path(scaledl.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12]
