"""Where a search keeps its trials, and what a trial's own run has recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

FOLDER = "trials"


def trial_folder(number: int) -> str:
    """Of a trial's run, relative to the search's."""
    return f"{FOLDER}/{number:04d}"


def epochs_until(record: Path, step: int) -> Iterator[tuple[int, dict[str, float]]]:
    """The validations of a run up to this step: epoch, from 1, and figures. Lines cut short by a kill are left out."""
    if not record.exists():
        return
    for line in record.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, LookupError, TypeError):
            entry = json.loads(line)
            if entry["kind"] == "val" and entry["step"] <= step:
                yield entry["epoch"] + 1, {k: v for k, v in entry.items() if k not in ("kind", "step", "epoch")}
