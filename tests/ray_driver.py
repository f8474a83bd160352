"""A driver for tests of Ray's coming and going: `python ray_driver.py KIND FOLDER [local_ray's num_nodes | address]`.

It writes FOLDER/up.json when it is connected, and then waits for FOLDER/go, for a signal, or for its cluster's end.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from scaledl.distributed.ray import RayCluster, check_shared, existing_ray, local_ray, ray_over_allocation, start
from scaledl.errors import ScaledlError


def open_ray(kind: str, argument: str) -> AbstractContextManager[RayCluster]:
    if kind == "slurm":
        return ray_over_allocation()
    if kind == "apart":  # the second node sees other files
        whole = start._local_commands
        start._local_commands = lambda count: [whole(count)[0], [*json.loads(argument), *whole(count)[1]]]
        return local_ray(1, num_nodes=2)
    return existing_ray(argument) if kind == "existing" else local_ray(1, num_nodes=int(argument))


def look_around() -> dict[str, Any]:
    """Where a task runs, and what it sees of the process that started all."""
    marks = ("SLURM", "RANK", "WORLD_SIZE", "MASTER", "PYTHONPATH", "SCALEDL_STATUS_DIR")
    return {
        "cwd": str(Path.cwd()),
        "node": os.environ.get("RAY_NODE_ID", ""),
        "cpus": sorted(os.sched_getaffinity(0)),
        "environ": sorted(name for name in os.environ if name.startswith(marks)),
    }


def describe(cluster: RayCluster) -> dict[str, Any]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0)(look_around)
    pinned = [NodeAffinitySchedulingStrategy(node.node_id, soft=False) for node in cluster.nodes]
    seen = ray.get([task.options(scheduling_strategy=strategy).remote() for strategy in pinned], timeout=60)
    nodes = [
        {**vars(node), "folder": str(node.folder), "seen": look} for node, look in zip(cluster.nodes, seen, strict=True)
    ]
    return {"address": cluster.address, "cpus": cluster.cpus, "gpus": cluster.gpus, "nodes": nodes, "pid": os.getpid()}


def main(kind: str, folder: Path, argument: str = "1") -> int:
    started = time.monotonic()
    try:
        with open_ray(kind, argument) as cluster:
            seconds = time.monotonic() - started
            found = describe(cluster)
            check_shared(cluster, folder)
            (folder / "up~").write_text(json.dumps({**found, "seconds": seconds}))
            (folder / "up~").rename(folder / "up.json")
            while not (folder / "go").exists():
                reason = cluster.fail_reason()
                if reason is not None:
                    raise ScaledlError(reason)
                time.sleep(0.05)
    except ScaledlError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]))
