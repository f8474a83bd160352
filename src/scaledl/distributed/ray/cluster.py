"""A Ray that this process is connected to, as a search sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from scaledl.errors import require_extra


@dataclass(frozen=True)
class RayNode:
    """`name`: the host's, or the scheduler's for it. `node_id`: Ray's. `wrapper` and `raylet`: pids on that node, and
    `folder`: all that Ray writes there; None for a cluster that is not ours."""

    name: str
    node_id: str
    address: str
    cpus: int
    gpus: int
    is_head: bool = False
    wrapper: int | None = None
    raylet: int | None = None
    folder: Path | None = None


@dataclass(frozen=True)
class RayCluster:
    """`address`: of the head's GCS, host:port. `is_ours`: started for this process, and gone with it."""

    address: str
    nodes: tuple[RayNode, ...]
    is_ours: bool
    _look: Callable[[bool], str | None] = field(default=lambda head_only: None, repr=False)

    @property
    def num_nodes(self) -> int:
        return len(self.nodes)

    @property
    def cpus(self) -> int:
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> int:
        return sum(node.gpus for node in self.nodes)

    @property
    def head(self) -> RayNode:
        return next((node for node in self.nodes if node.is_head), self.nodes[0])

    @property
    def temp_dir(self) -> Path | None:
        """The head's folder; None where it is not ours."""
        return self.head.folder

    def fail_reason(self, *, head_only: bool = False) -> str | None:
        """What became of the first node that was lost, or None while all are there. Waits for nothing.

        Ray goes on without another node. Without its head nothing moves any more, and after 20 s Ray ends this process.
        """
        return self._look(head_only)


def require_ray() -> None:
    """Raise a UsageError that names the extra where Ray is not installed."""
    require_extra("ray", "tune")
