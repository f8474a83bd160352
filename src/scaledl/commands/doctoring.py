"""doctor: what may stand in the way of a training."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from scaledl.commands.arguments import positive_ints, runs_folder
from scaledl.commands.output import print_json
from scaledl.console import get_console
from scaledl.errors import ScaledlError

if TYPE_CHECKING:
    from scaledl.doctor import Check


def doctor(args: argparse.Namespace) -> None:
    [seconds] = positive_ints("--seconds", [args.seconds], least=2)
    root = runs_folder(args.root)
    from scaledl.doctor import examine

    checks = examine(os.environ, root, float(seconds))
    if checks is None:
        return
    failed = list(dict.fromkeys(check.name for check in checks if check.verdict == "fail"))
    if args.json:
        print_json({"ok": not failed, "checks": [vars(check) for check in checks]})
    else:
        _print(checks)
    if failed:
        raise ScaledlError(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}")


def _print(checks: Sequence[Check]) -> None:
    """A line for each check, and below it what to do if it is not ok. One rank's word for all."""
    console = get_console()
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}[check.verdict]
        console.result(f"{mark}  {check.name:<{width}}  {check.what}")
        if check.fix:
            console.result(f"{'':<{width + 6}}  -> {check.fix}")
    if not any(check.name == "links" for check in checks):
        console.result(
            "The network between ranks is measured when they are there: `srun scaledl doctor`, or "
            "`torchrun --nproc-per-node=2 --no-python scaledl doctor`"
        )
