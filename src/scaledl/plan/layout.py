"""How ranks lie on nodes, and what each of them gets of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scaledl.config import Config
from scaledl.errors import UsageError
from scaledl.run.machine import num_cpus

Strategy = Literal["ddp", "deepspeed"]
MAX_NODES, MAX_DEVICES = 65536, 1024


@dataclass(frozen=True)
class Layout:
    """`devices`: ranks on each node. `stage`: of ZeRO, 0 under DDP."""

    num_nodes: int = 1
    devices: int = 1
    stage: int = 0
    offload_optimizer: bool = False
    offload_parameters: bool = False

    @property
    def world_size(self) -> int:
        return self.num_nodes * self.devices

    def __str__(self) -> str:
        """
        >>> str(Layout(2, 4, 3, offload_optimizer=True)), str(Layout())
        ('2 nodes x 4, ZeRO-3, optimizer on CPU', '1 node x 1')
        """
        nodes = f"{self.num_nodes} node{'s' if self.num_nodes > 1 else ''} x {self.devices}"
        strategy = f"ZeRO-{self.stage}" if self.stage else "ddp" if self.world_size > 1 else ""
        offloaded = [("optimizer", self.offload_optimizer), ("parameters", self.offload_parameters)]
        moved = [f"{what} on CPU" for what, is_moved in offloaded if is_moved]
        return ", ".join(part for part in (nodes, strategy, *moved) if part)


def config_layout(config: Config, *, num_gpus: int) -> Layout:
    """The layout that the config asks for; `auto` is one node with all its GPUs, or one rank."""
    trainer = config.trainer
    zero = trainer.deepspeed if trainer.strategy == "deepspeed" else None
    return Layout(
        num_nodes=1 if trainer.num_nodes == "auto" else trainer.num_nodes,
        devices=max(1, num_gpus) if trainer.devices == "auto" else trainer.devices,
        stage=zero.stage if zero else 0,
        offload_optimizer=bool(zero and zero.offload_optimizer),
        offload_parameters=bool(zero and zero.offload_parameters),
    )


def neighbours(layout: Layout) -> list[Layout]:
    """Layouts worth comparing with: more ranks on the node, more nodes, and what ZeRO shards on these.

    >>> [str(near) for near in neighbours(Layout())]
    ['1 node x 2, ddp', '2 nodes x 1, ddp', '2 nodes x 1, ZeRO-1', '2 nodes x 1, ZeRO-2', '2 nodes x 1, ZeRO-3']
    """
    nodes, devices = layout.num_nodes, layout.devices
    several = Layout(nodes, devices) if layout.world_size > 1 else Layout(2 * nodes, devices)
    near = [
        Layout(1, 1),
        Layout(nodes, 2 * devices),
        Layout(2 * nodes, devices),
        *(Layout(several.num_nodes, several.devices, stage) for stage in (0, 1, 2, 3)),
    ]
    return [found for number, found in enumerate(near) if found != layout and found not in near[:number]]


def micro_batch(config: Config, layout: Layout) -> int:
    """Samples that the busiest rank takes through the model at once. Raises UsageError when some rank gets none."""
    whole = config.data.batch_size // config.trainer.accumulate
    if whole < layout.world_size:
        raise UsageError(
            f"data.batch_size: got {config.data.batch_size} in {config.trainer.accumulate} micro-batch(es) for "
            f"{layout.world_size} ranks ({layout}), so that some would get no sample; allowed: at least "
            f"{layout.world_size * config.trainer.accumulate}, or fewer ranks"
        )
    return -(-whole // layout.world_size)


def num_threads(config: Config, layout: Layout) -> int:
    """CPU threads of a rank: what the config says, else its share of the CPUs that are allowed here."""
    return config.trainer.num_threads or max(1, num_cpus() // layout.devices)
