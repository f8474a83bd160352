"""train, chain, compress. The stop signals are taken before torch is imported, which lasts a second."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from scaledl.commands.arguments import chosen_run, given_config, identity, override, resumed_config, split_arguments
from scaledl.commands.output import command, print_compressed, print_json, print_trained, run_document
from scaledl.commands.ranks import joined
from scaledl.config import Config, load_config, parse_recipe
from scaledl.config.imported import check_trusted
from scaledl.distributed.environment import detect_cluster
from scaledl.distributed.local import PROGRAM_VARIABLE
from scaledl.distributed.preemption import stop_flag
from scaledl.errors import Interrupted, Preempted, UsageError
from scaledl.run import Run, atomic_write, default_id

TABLE = "table.json"
STATUS_VARIABLE = "SCALEDL_STATUS_DIR"  # set by batch scripts, which also requeue
CHOICE = "source"  # in that folder: the run that `compress` took where none was given


def train(args: argparse.Namespace) -> None:
    stop_flag.install()
    config = resumed_config(args) if args.resume is not None else given_config(args)

    try:
        with joined(config):
            from scaledl import api

            run = api.train(config, allow_changes=args.allow_changes)
    except (Preempted, Interrupted) as stop:
        raise type(stop)(f"{stop}{_again(config)}") from stop
    print_json(run_document(run)) if args.json else print_trained(run)


def _again(config: Config) -> str:
    """With a fixed id the same command resumes; without one it would start another run."""
    fixed = default_id(config) is not None or "--resume" in sys.argv
    return _to_go_on(*([] if fixed else ["--resume"]))


def _to_go_on(*more: str) -> str:
    if STATUS_VARIABLE in os.environ:
        return ""  # the batch script starts it again, or says why not
    line = command(*sys.argv[1:], *more)
    by_another = "RANK" in os.environ and PROGRAM_VARIABLE not in os.environ  # a launcher, which knows of more ranks
    return f". To go on, start its ranks as before, with: {line}" if by_another else f". To go on: {line}"


def chain(args: argparse.Namespace) -> None:
    stop_flag.install()
    config = given_config(args)

    try:
        with joined(config):
            from scaledl import api

            trained, compressed = api.chain(config)
    except (Preempted, Interrupted) as stop:
        raise _same_again(stop) from stop
    _print_chain(args, trained, compressed)


def compress(args: argparse.Namespace) -> None:
    stop_flag.install()
    target, overrides = split_arguments(args.args)
    source = _source(target, args.root)
    if args.id == source.id:
        raise UsageError(f"--id: {source.label} is the run to be compressed; give another id, or none")
    check_trusted(source.config, args.trust, str(source.path))
    config = _recipe_config(args, source, overrides)

    try:
        with joined(config):
            from scaledl import api

            run = api.compress(source, config, trust=args.trust)
    except (Preempted, Interrupted) as stop:
        raise _same_again(stop) from stop
    _print_chain(args, source, run)


def _source(ref: str | None, root: str) -> Run:
    """The run to compress. A batch job that is started again goes on with the one it took first, not a newer one."""
    folder = os.environ.get(STATUS_VARIABLE)
    if ref is not None or not folder:
        return chosen_run(ref, root, kinds=("train",))
    choice = Path(folder) / CHOICE
    if choice.exists():
        return chosen_run(choice.read_text(encoding="utf-8"), root, kinds=("train",))
    run = chosen_run(None, root, kinds=("train",))
    if detect_cluster(os.environ).rank == 0:  # whose choice it is, should it differ from that of others
        atomic_write(choice, str(run.path), "choice of the run")
    return run


def _recipe_config(args: argparse.Namespace, source: Run, overrides: list[str]) -> Config:
    """The source's config with the recipe; the new run lies beside its source."""
    methods = args.method.split(",") if args.method is not None else None
    recipe, rest = parse_recipe(methods, args.recipe, overrides, source.config.compress)
    beside = override("run.root", source.path.parent.parent)
    config = load_config(None, [beside, *rest, *identity(args)], base=source.config, space=False)
    return config.model_copy(update={"compress": recipe})


def _same_again(stop: Preempted | Interrupted) -> Preempted | Interrupted:
    return type(stop)(f"{stop}{_to_go_on()}")


def _print_chain(args: argparse.Namespace, source: Run, run: Run) -> None:
    from scaledl.compress.rows import footnote, format_rows, read_rows

    rows = read_rows(run.path / TABLE)
    if args.json:
        table = json.loads((run.path / TABLE).read_text(encoding="utf-8"))
        return print_json({**run_document(run), "artifact": str(run.exports / "model.ts"), "stages": table["rows"]})
    return print_compressed(source, run, format_rows(rows), footnote(rows))
