"""Run directories: atomic files, manifests, identity, attempts and lineage. No torch."""

from scaledl.run.attempt import LOST_AFTER_SECONDS
from scaledl.run.directory import Run
from scaledl.run.files import atomic_file, atomic_json, atomic_write, remove_stale, sha256_file, storage_errors
from scaledl.run.find import default_id, find_run, list_runs
from scaledl.run.lineage import lineage
from scaledl.run.manifest import SCHEMA_VERSION, Manifest, Parent

__all__ = [
    "LOST_AFTER_SECONDS",
    "SCHEMA_VERSION",
    "Manifest",
    "Parent",
    "Run",
    "atomic_file",
    "atomic_json",
    "atomic_write",
    "default_id",
    "find_run",
    "lineage",
    "list_runs",
    "remove_stale",
    "sha256_file",
    "storage_errors",
]
