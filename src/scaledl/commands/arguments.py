"""What the parsed arguments mean: config files, overrides, identities, numbers."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from scaledl.config import Config, load_config
from scaledl.config.imported import check_trusted
from scaledl.console import get_console
from scaledl.distributed.environment import detect_cluster
from scaledl.distributed.local import PROGRAM_VARIABLE
from scaledl.errors import UsageError
from scaledl.run import Run, find_run, list_runs


def split_arguments(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The path or run, if any, and the key=value overrides, in whatever order they stand."""
    targets = [argument for argument in arguments if _is_target(argument)]
    if not targets:
        return None, list(arguments)
    overrides = list(arguments)
    overrides.remove(targets[0])
    return targets[0], overrides


def _is_target(argument: str) -> bool:
    return "=" not in argument or ("\0" not in argument and len(argument) < 4096 and _exists(argument))


def _exists(argument: str) -> bool:
    try:
        return Path(argument).exists()
    except OSError:
        return False


def identity(args: argparse.Namespace) -> list[str]:
    """--id and --name as overrides."""
    given = {"run.id": args.id, "run.name": getattr(args, "name", None)}
    return [override(key, value) for key, value in given.items() if value is not None]


def override(key: str, value: object) -> str:
    """`key="value"`, quoted so that it stays text whatever it looks like.

    >>> override("run.id", 123)
    'run.id="123"'
    """
    return f"{key}={json.dumps(str(value), ensure_ascii=False)}"


def given_config(args: argparse.Namespace) -> Config:
    """The config that file, overrides and identity make."""
    path, overrides = split_arguments(args.args)
    loaded = load_config(path, [*overrides, *identity(args)], space=False)
    if path is None:
        tell_defaults("using", overrides)
    return loaded


def tell_defaults(does: str, overrides: list[str]) -> None:
    """That there is no config file; of several processes one says it."""
    if not _is_first():
        return
    used = "the defaults, and the command line's keys over them" if overrides else "the defaults"
    get_console().info(f"no config file given: {does} {used} (`scaledl config show` prints them)")


def _is_first() -> bool:
    if PROGRAM_VARIABLE in os.environ:  # a rank of a command that has said it
        return False
    try:
        return detect_cluster(os.environ).rank == 0
    except UsageError:  # who joins the other ranks is told then
        return True


def resumed_config(args: argparse.Namespace) -> Config:
    """The config of the run that `--resume` means, or of the file, under the run's identity."""
    target, given = args.resume or None, list(args.args)
    if target and ("=" in target or target.endswith((".yaml", ".yml"))):  # argparse took it for the run
        target, given = None, [target, *given]
    if args.id is not None:
        raise UsageError("--resume and --id cannot stand together: --id ID alone goes on with that run, if it is there")
    path, overrides = split_arguments(given)
    asked = load_config(path, [*overrides, *identity(args)], space=False)
    named = asked.run.name if path is not None or args.name is not None else None
    run = _unfinished(target, Path(asked.run.root), named)
    get_console().info(f"resuming {run.path}")
    who = [override("run.id", run.id), override("run.name", run.name), override("run.root", run.path.parent.parent)]
    if path is not None:
        return load_config(path, [*overrides, *who], space=False)
    check_trusted(run.config, args.trust, str(run.path))
    return load_config(None, [*overrides, *who], base=run.config, space=False)


def _unfinished(target: str | None, root: Path, name: str | None) -> Run:
    if target is not None:
        return find_run(target, root, status=None)
    for run in list_runs(root):
        if run.kind == "train" and run.state not in ("complete", "running") and name in (None, run.name):
            return run
    of_name = f" of {name}" if name else ""
    raise UsageError(f"--resume: no unfinished training run{of_name} in {root}/; `scaledl runs` lists what is there")


def runs_folder(root: str) -> Path:
    """--root, which need not exist yet but may be nothing else than a folder."""
    if not root or "\0" in root or (_exists(root) and not Path(root).is_dir()):
        raise UsageError(f"--root: got {root!r}; allowed: the folder of all runs, such as runs; this is none")
    return Path(root)


def chosen_run(ref: str | None, root: str, *, kinds: Sequence[str], status: str | None = "complete") -> Run:
    """The run of this name; without one the newest complete training run, and it says which."""
    folder = runs_folder(root)
    if ref is not None:
        return find_run(ref, folder, kinds=kinds, status=status)
    run = find_run(None, folder)
    get_console().info(f"no run given: taking the newest complete training run, {run.path}")
    return run


def positive_ints(flag: str, texts: Sequence[str], least: int = 1) -> list[int]:
    """Whole numbers from `least` to 65536. Raises UsageError."""
    if all(text.strip().isascii() and text.strip().isdigit() and len(text) < 10 for text in texts):
        numbers = [int(text) for text in texts]
        if min(numbers) >= least and max(numbers) <= 65536:
            return numbers
    raise UsageError(f"{flag}: got {','.join(texts)!r}; allowed: whole numbers from {least} to 65536")


def interval(text: str | None) -> float | None:
    """--interval, in seconds. Raises UsageError."""
    if text is None:
        return None
    if re.fullmatch(r"\d{1,4}(\.\d{1,3})?", text, re.ASCII) and 0.2 <= float(text) <= 3600:
        return float(text)
    raise UsageError(f"--interval: got {text!r}; allowed: seconds from 0.2 to 3600")
