"""What a node of Ray, and so every trial, inherits of the environment of the process that started the search."""

from __future__ import annotations

from collections.abc import Mapping

DATA_VARIABLE = "SCALEDL_NODE_DIR"  # where workers of a node share what they load: `scaledl.data.shared`
MARK_VARIABLE = "SCALEDL_RAY_MARK"  # in the environment of all that runs below a wrapper
TOKEN = "token"  # noqa: S105 # the file's name
_PREFIXES = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "PMI_", "PMIX_", "OMPI_", "TORCHELASTIC_")
_NAMES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("GROUP_RANK", "GROUP_WORLD_SIZE", "NODE_RANK", "CROSS_RANK", "CROSS_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE"),
    *("SCALEDL_STATUS_DIR", "SCALEDL_LAUNCH_ID", "SCALEDL_LINK_FD", "SCALEDL_PROGRAM"),
    *("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_RAYLET_PID"),
)


def environment_of_node(environ: Mapping[str, str]) -> dict[str, str]:
    """Without what would make a trial a task of Slurm, a rank, or a guest of another Ray.

    >>> environment_of_node({"SLURM_JOB_ID": "7", "RANK": "0", "PYTHONPATH": "src"})
    {'PYTHONPATH': 'src'}
    """
    return {name: value for name, value in environ.items() if name not in _NAMES and not name.startswith(_PREFIXES)}
