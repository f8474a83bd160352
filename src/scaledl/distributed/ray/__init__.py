"""Ray, brought up for a search and taken down after it: here, over the nodes of a Slurm job, or somebody's own."""

from __future__ import annotations

from scaledl.distributed.ray.cluster import RayCluster, RayNode, require_ray
from scaledl.distributed.ray.shared import check_shared
from scaledl.distributed.ray.start import existing_ray, in_allocation, local_ray, ray_over_allocation

__all__ = [
    "RayCluster",
    "RayNode",
    "check_shared",
    "existing_ray",
    "in_allocation",
    "local_ray",
    "ray_over_allocation",
    "require_ray",
]
