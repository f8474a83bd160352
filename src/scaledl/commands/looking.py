"""report, runs, lineage, config: nothing here imports torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from scaledl.commands.arguments import chosen_run, interval, runs_folder, split_arguments
from scaledl.commands.output import command, entry_document, entry_line, headline, print_json, run_document, run_row
from scaledl.config import config_keys, dump_yaml, json_schema, load_config
from scaledl.console import get_console
from scaledl.errors import UsageError
from scaledl.run import lineage as lineage_of
from scaledl.run import list_runs

ANY_KIND = ("train", "compress", "stage")
WITH_REPORT = (*ANY_KIND, "tune", "trial")


def report(args: argparse.Namespace) -> None:
    run = chosen_run(args.run, args.root, kinds=WITH_REPORT, status=None)
    from scaledl.report import write_report

    path = write_report(run, Path(args.root))
    print_json({"run": str(run.path), "report": str(path)}) if args.json else get_console().result(str(path))


def runs(args: argparse.Namespace) -> None:
    _check_watch(args)
    if args.watch:
        return _watch(args)
    found = list_runs(runs_folder(args.root))
    if args.json:
        return print_json([run_document(run) for run in found])
    if not found:
        start = command("train", "configs/digits.yaml")
        return get_console().result(f"no runs in {args.root}/; start one with: {start}")
    alike = {headline(run)[0] for run in found} <= {"test_accuracy"}
    columns = ["run", "kind", "status", "test accuracy" if alike else "test figure", "age", "parent"]
    return get_console().table(columns, [run_row(run) for run in found])


def _check_watch(args: argparse.Namespace) -> None:
    for flag, given in (("--once", args.once), ("--interval", args.interval is not None)):
        if given and not args.watch:
            raise UsageError(f"{flag}: only together with --watch")
    if args.watch and args.json and not args.once:
        raise UsageError("--json: one document, so together with --watch it needs --once")


def _watch(args: argparse.Namespace) -> None:
    from scaledl.commands.watching import documents, show_once, watch

    root, seconds = runs_folder(args.root), interval(args.interval)
    if args.json:
        return print_json(documents(root))
    return show_once(root) if args.once else watch(root, seconds)


def lineage(args: argparse.Namespace) -> None:
    run = chosen_run(args.run, args.root, kinds=ANY_KIND, status=None)
    found = lineage_of(run, Path(args.root))
    if args.json:
        return print_json([{"depth": depth, **entry_document(entry)} for depth, entry in found])
    for depth, entry in found:
        get_console().result("  " * depth + entry_line(entry, run))
    return None


def config(args: argparse.Namespace) -> None:
    if args.action == "schema":
        return print_json(json_schema())
    if args.action == "keys":
        return _print_keys(args)
    path, overrides = split_arguments(args.args)
    loaded = load_config(path, overrides)
    if args.action == "check":
        return _print_valid(args, path)
    return print_json(loaded.model_dump(mode="json")) if args.json else get_console().result(dump_yaml(loaded).rstrip())


def _print_keys(args: argparse.Namespace) -> None:
    keys = config_keys()
    if args.json:
        return print_json([vars(key) for key in keys])
    rows = [[key.name, key.type, key.default, key.allowed, key.description] for key in keys]
    return get_console().table(["key", "type", "default", "allowed", "meaning"], rows)


def _print_valid(args: argparse.Namespace, path: str | None) -> None:
    if args.json:
        return print_json({"config": path, "valid": True})
    return get_console().result(f"{path or 'the default config'}: valid")
