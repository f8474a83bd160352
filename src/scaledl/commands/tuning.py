"""tune: a search, going on with one, or a look at one."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from scaledl.commands.arguments import chosen_run, identity, override, split_arguments, tell_defaults
from scaledl.commands.job_status import job_status
from scaledl.commands.output import command, print_json
from scaledl.config import Config, TuneConfig, load_config, parse_recipe
from scaledl.config.imported import check_trusted
from scaledl.console import get_console
from scaledl.distributed.preemption import stop_flag
from scaledl.errors import Interrupted, Preempted, UsageError, require_extra
from scaledl.run import Run, default_id

FLAGS = {"search": "search", "scheduler": "scheduler", "verb": "trial_verb"}


def tune(args: argparse.Namespace) -> None:
    for module in ("ray", "optuna"):
        require_extra(module, "tune")
    if args.show is not None:
        return _show(args)
    _check_address(args.address)
    stop_flag.install()
    source, config = _asked(args)
    from scaledl import api

    try:
        with job_status() as tell:
            run = api.tune(
                config,
                address=args.address,
                source=source,
                warm_start=args.warm_start,
                confirmed=args.yes,
                on_progress=tell,
            )
    except (Preempted, Interrupted) as stop:
        raise type(stop)(f"{stop}{_to_go_on(config)}") from stop
    return _print(args, run)


def _asked(args: argparse.Namespace) -> tuple[Run | None, Config]:
    """The run to compress, if any, and the config of the search."""
    given = _overrides(args)
    if args.resume is not None:
        return _resumed(args, given)
    target, overrides = split_arguments(args.args)
    if args.trial_verb == "compress":
        return _compression(args, target, [*overrides, *given])
    if args.method is not None or args.recipe is not None:
        raise UsageError("--method: takes part in --verb compress only")
    config = load_config(target, [*overrides, *given, *identity(args)])
    if target is None:
        tell_defaults("searching with", overrides)
    if config.tune.verb == "compress":
        raise UsageError("tune.verb: compress in a config needs a run: scaledl tune RUN --verb compress")
    return None, config


def _overrides(args: argparse.Namespace) -> list[str]:
    found = [
        override(f"tune.{name}", value) for name, flag in FLAGS.items() if (value := getattr(args, flag)) is not None
    ]
    if args.trials is not None:
        found.append(f"tune.trials={_trials(args.trials)}")
    return found


def _check_address(address: str | None) -> None:
    """Before anything is written; whether somebody answers there is asked later."""
    host, _, port = (address or "auto").rpartition(":")
    if address not in (None, "auto") and not (host and "/" not in host and port.isascii() and port.isdigit()):
        raise UsageError(
            f"--address: got {address!r}; allowed: HOST:PORT of the head, as `ray start --head` prints it, or auto"
        )


def _trials(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 8 and 0 < int(text) <= 1_000_000:
        return int(text)
    raise UsageError(f"--trials: got {text!r}; allowed: a whole number from 1 to 1000000")


def _compression(args: argparse.Namespace, target: str | None, overrides: list[str]) -> tuple[Run, Config]:
    source = chosen_run(target, args.root, kinds=("train",))
    check_trusted(source.config, args.trust, str(source.path))
    methods = args.method.split(",") if args.method is not None else None
    recipe_overrides = [text for text in overrides if not text.startswith("tune.")]
    recipe, rest = parse_recipe(methods, args.recipe, recipe_overrides, source.config.compress)
    if not recipe.stages:
        raise UsageError("tune: no recipe; give --method distill,prune,qat or --recipe FILE")
    base = source.config.model_copy(update={"compress": recipe})
    searched = [text for text in overrides if text.startswith("tune.")]
    beside = [override("run.root", source.path.parent.parent), override("run.name", source.name)]
    plain = base.model_copy(update={"run": base.run.model_copy(update={"id": None}), "tune": TuneConfig()})
    return source, load_config(None, [*beside, *rest, *searched, *identity(args)], base=plain)


def _resumed(args: argparse.Namespace, given: list[str]) -> tuple[Run | None, Config]:
    from scaledl.tune.directory import unfinished_search

    target, words = args.resume or None, list(args.args)
    if target and ("=" in target or target.endswith((".yaml", ".yml"))):  # argparse took it for the directory
        target, words = None, [target, *words]
    path, overrides = split_arguments(words)
    if path is not None:
        raise UsageError(f"--resume: a search goes on with its own config; leave {path} out, or begin another search")
    run = unfinished_search(target, Path(args.root), args.name)
    check_trusted(run.config, args.trust, str(run.path))
    get_console().info(f"resuming {run.path}")
    who = [override("run.id", run.id), override("run.name", run.name), override("run.root", run.path.parent.parent)]
    config = load_config(None, [*overrides, *given, *who], base=run.config)
    source = Run.open(run.manifest.parents[0].path) if run.manifest.parents else None
    return source, config


def _to_go_on(config: Config) -> str:
    if "SCALEDL_STATUS_DIR" in os.environ:
        return ""  # the batch script starts it again, or says why not
    fixed = default_id(config) is not None or "--resume" in sys.argv
    words = sys.argv[1:] if fixed else ["tune", "--resume"]
    return f". To go on: {command(*words)}"


def _print(args: argparse.Namespace, run: Run) -> None:
    from scaledl.commands.search_table import print_search, search_document

    print_json(search_document(run)) if args.json else print_search(run)


def _show(args: argparse.Namespace) -> None:
    from scaledl.tune.directory import find_search

    target, _ = split_arguments([args.show, *args.args] if args.show else args.args)
    _print(args, find_search(target, Path(args.root)))
