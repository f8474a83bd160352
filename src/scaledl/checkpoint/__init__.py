"""Training checkpoints: atomic, hashed, loaded without pickle; the newest one that verifies is the one that loads.

A checkpoint is two files: `step-00000450.ckpt` (torch zip, tensors and plain values only) and, written after it,
`step-00000450.json` with its size, SHA-256 and position. A checkpoint without its second file does not exist.
"""

from scaledl.checkpoint.content import check_fit, read_checkpoint
from scaledl.checkpoint.files import (
    CheckpointInfo,
    best_of,
    best_verified,
    candidates,
    newest_verified,
    problem,
    prune_old,
    scan,
)
from scaledl.checkpoint.random_state import (
    random_state,
    ranks_random_state,
    restore_random_state,
    restore_ranks_random_state,
    seed_generators,
)
from scaledl.checkpoint.save import Checkpointer
from scaledl.checkpoint.writer import CheckpointWriter

__all__ = [
    "CheckpointInfo",
    "CheckpointWriter",
    "Checkpointer",
    "best_of",
    "best_verified",
    "candidates",
    "check_fit",
    "newest_verified",
    "problem",
    "prune_old",
    "random_state",
    "ranks_random_state",
    "read_checkpoint",
    "restore_random_state",
    "restore_ranks_random_state",
    "scan",
    "seed_generators",
]
