"""What stays of a trial when it has ended: its record always, its weights where they are worth it."""

from __future__ import annotations

import shutil
from pathlib import Path


def forget_weights(folder: Path, keep: str, *, best: bool) -> None:
    """Remove what a trial does not need any more: checkpoints always, weights unless they are kept."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    if keep == "none" or (keep == "best" and not best):
        for name in ("model", "exports", "stages"):
            shutil.rmtree(folder / name, ignore_errors=True)
