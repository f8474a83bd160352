"""All checks, in one process or in all ranks of a job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from scaledl.distributed.environment import ClusterSpec, detect_cluster
from scaledl.doctor.check import Check
from scaledl.doctor.local import local_checks
from scaledl.errors import ScaledlError, UsageError


def examine(environ: Mapping[str, str], root: Path, seconds: float) -> list[Check] | None:
    """What was found; None on every rank but the first, which tells it. `seconds`: for the network between ranks."""
    place = _place(environ)
    if isinstance(place, Check) or place.world_size == 1:
        return local_checks(place, environ, root)
    return _examine_together(place, environ, root, seconds)


def _place(environ: Mapping[str, str]) -> ClusterSpec | Check:
    try:
        return detect_cluster(environ)
    except UsageError as error:
        what, _, fix = str(error).rpartition("; ")
        return Check("environment", "fail", what, fix)


def _examine_together(spec: ClusterSpec, environ: Mapping[str, str], root: Path, seconds: float) -> list[Check] | None:
    """What rank 0 gathered, also when ranks went missing on the way; the others leave it to rank 0 to tell."""
    from scaledl.doctor.together import Visit

    visit = None
    try:
        visit = Visit(spec, environ, root, seconds)
        visit.run()
    except ScaledlError as error:
        if spec.rank:
            error.told = True
            raise
        checks = visit.checks if visit else local_checks(spec, environ, root)
        return [*checks, Check("ranks", "fail", str(error))]
    return None if spec.rank else visit.checks
