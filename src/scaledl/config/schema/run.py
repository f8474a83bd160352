"""Where a run is kept, and its seed."""

from __future__ import annotations

from pydantic import Field

from .base import NAME_PATTERN, Section


class RunConfig(Section):
    name: str | None = Field(
        default=None,
        pattern=NAME_PATTERN,
        description="Folder of the run under `root`; by default the config file's name.",
    )
    id: str | None = Field(
        default=None,
        pattern=NAME_PATTERN,
        description="Folder of this execution under the name; a fixed id resumes. Default: Slurm job id, else new.",
    )
    root: str = Field(
        default="runs", min_length=1, description="Folder of all runs, relative to the working directory."
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of initial weights, data order and augmentation.")
