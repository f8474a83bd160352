"""Whether all nodes of a Ray see the folder of a search, as they must: trials write there, and go on from there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from scaledl.distributed.ray.cluster import RayCluster
from scaledl.distributed.shared_folder import left_probe
from scaledl.errors import UsageError

ANSWER_SECONDS = 60.0  # a worker has to start on each node


def check_shared(cluster: RayCluster, folder: Path) -> None:
    """Raise a UsageError that names the nodes which do not see what this process writes into `folder`."""
    with left_probe(0, folder) as probe:
        if "problem" in probe:
            raise UsageError(probe["problem"])
        place = [folder.absolute(), *folder.absolute().parents][probe["level"]]
        blind = _blind(cluster, place / probe["name"])
    if blind:
        raise UsageError(
            f"{', '.join(blind)} cannot see in {place} what {cluster.head.name} wrote there; the folder of a search "
            "has to be on a filesystem that all nodes share, under the same path"
        )


def _blind(cluster: RayCluster, path: Path) -> list[str]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(_look())
    asked = {
        look.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)).remote(
            str(path)
        ): node.name
        for node in cluster.nodes
    }
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
    return [*(asked[ref] for ref in answered if not ray.get(ref)), *(asked[ref] for ref in silent)]


def _look() -> Callable[[str], Any]:
    """A function that Ray sends as it is, and does not import: scaledl need not be the same on a foreign cluster."""

    def look(path: str) -> bool:
        import os
        import time

        deadline = time.monotonic() + 5  # a network filesystem may be late
        while not os.path.isfile(path):  # noqa: PTH113
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True

    return look
