"""One function per verb: from parsed arguments through the api to what the user reads."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaledl.config import Config, config_keys, dump_yaml, json_schema, load_config, parse_recipe, replace
from scaledl.console import get_console
from scaledl.distributed.preemption import stop_flag
from scaledl.errors import UsageError, VerdictError
from scaledl.run import Run, find_run, list_runs
from scaledl.run import lineage as lineage_of


def train(args: argparse.Namespace) -> None:
    stop_flag.install()
    config = _resumed_config(args) if args.resume is not None else _config_from(args)
    from scaledl import api

    run = api.train(config)
    _run_result(args, run, f"scaledl compress {run.path}")


def chain(args: argparse.Namespace) -> None:
    stop_flag.install()
    config = _config_from(args)
    from scaledl import api

    trained, compressed = api.chain(config)
    _chain_result(args, trained, compressed)


def compress(args: argparse.Namespace) -> None:
    stop_flag.install()
    target, overrides = _split_arguments(args.args)
    source = find_run(target, Path(args.root))
    if target is None:
        get_console().info(f"no run given: taking the newest complete training run, {source.path}")
    methods = args.method.split(",") if args.method is not None else None
    recipe, rest = parse_recipe(methods, args.recipe, overrides, source.config.compress)
    config = load_config(None, rest, base=source.config)
    config = config.model_copy(update={"compress": recipe})
    from scaledl import api

    _chain_result(args, source, api.compress(source, config))


def export(args: argparse.Namespace) -> None:
    run = find_run(args.run, Path(args.root), kinds=("train", "compress", "stage"))
    from scaledl import api

    output = Path(args.output) if args.output else None
    artifact, verification = api.export(run, output, force=args.force)
    _print_verification(args, artifact.path, verification)


def verify(args: argparse.Namespace) -> None:
    from scaledl import api

    verification = api.verify(Path(args.file), trust=args.trust)
    _print_verification(args, Path(args.file), verification)
    if not verification.ok:
        failed = "; ".join(f"{check.name}: {check.detail}" for check in verification.checks if not check.ok)
        raise VerdictError(f"{args.file} failed its verification: {failed}")


def evaluate(args: argparse.Namespace) -> None:
    from scaledl import api

    name, result, data = api.evaluate(args.target, Path(args.root), split=args.split, trust=args.trust)
    if args.json:
        document = {"target": name, "split": args.split, "accuracy": result.accuracy, "loss": result.loss}
        return _json({**document, "count": result.count, "confusion": result.confusion.tolist()})
    console = get_console()
    console.result(
        f"{name}: {args.split} accuracy {result.accuracy:.2%}, loss {result.loss:.4f} ({result.count:,} samples)"
    )
    per_class = result.confusion.diag().double() / result.confusion.sum(dim=1).clamp(min=1)
    rows = [[label, f"{value:.2%}"] for label, value in zip(data.spec.labels, per_class.tolist(), strict=True)]
    return console.table(["class", "accuracy"], rows)


def bench(args: argparse.Namespace) -> None:
    batch_sizes = _positive_ints("--batch-sizes", args.batch_sizes.split(","))
    _positive_ints("--threads", [args.threads])
    _positive_ints("--rounds", [args.rounds])
    from scaledl import api
    from scaledl.bench import to_table

    rows = api.bench(
        args.targets,
        Path(args.root),
        batch_sizes=batch_sizes,
        threads=args.threads,
        rounds=args.rounds,
        trust=args.trust,
    )
    if args.json:
        return _json([row.to_dict() for row in rows])
    return get_console().table(*to_table(rows))


def report(args: argparse.Namespace) -> None:
    run = find_run(args.run, Path(args.root), kinds=("train", "compress", "stage"), status=None)
    from scaledl.report import write_report

    path = write_report(run, Path(args.root))
    _json({"report": str(path)}) if args.json else get_console().result(str(path))


def runs(args: argparse.Namespace) -> None:
    found = list_runs(Path(args.root))
    if args.json:
        return _json([_run_document(run) for run in found])
    if not found:
        return get_console().result(f"no runs in {args.root}/; start one with: scaledl train configs/digits.yaml")
    columns = ["run", "kind", "status", "test accuracy", "age", "parent"]
    return get_console().table(columns, [_run_row(run) for run in found])


def lineage(args: argparse.Namespace) -> None:
    run = find_run(args.run, Path(args.root), kinds=("train", "compress", "stage"), status=None)
    found = lineage_of(run, Path(args.root))
    if args.json:
        return _json([{"depth": depth, **_entry_document(entry)} for depth, entry in found])
    for depth, entry in found:
        get_console().result("  " * depth + _entry_line(entry, run))
    return None


def config(args: argparse.Namespace) -> None:
    if args.action == "schema":
        return _json(json_schema())
    if args.action == "keys":
        keys = config_keys()
        if args.json:
            return _json([vars(key) if hasattr(key, "__dict__") else key._asdict() for key in keys])
        rows = [[key.name, key.type, str(key.default), key.allowed, key.description] for key in keys]
        return get_console().table(["key", "type", "default", "allowed", "meaning"], rows)
    path, overrides = _split_arguments(args.args)
    loaded = load_config(path, overrides)
    if args.json:
        return _json(loaded.model_dump(mode="json"))
    if args.action == "check":
        return get_console().result(f"{path or 'the default config'}: valid")
    return get_console().result(dump_yaml(loaded).rstrip())


def _split_arguments(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The leading path or run, if any, and the key=value overrides."""
    if arguments and ("=" not in arguments[0] or Path(arguments[0]).exists()):
        return arguments[0], list(arguments[1:])
    return None, list(arguments)


def _config_from(args: argparse.Namespace) -> Config:
    path, overrides = _split_arguments(args.args)
    loaded = load_config(path, overrides)
    if path is None:
        get_console().info("no config given: using the defaults (see `scaledl config show`)")
    named = {"run.id": args.id, "run.name": args.name or loaded.run.name or (Path(path).stem if path else None)}
    return replace(loaded, {key: value for key, value in named.items() if value is not None})


def _resumed_config(args: argparse.Namespace) -> Config:
    target, given = args.resume or None, list(args.args)
    if target and target.endswith((".yaml", ".yml")):
        target, given = None, [target, *given]
    path, overrides = _split_arguments(given)
    root = Path(load_config(path, overrides).run.root)
    run = _unfinished(target, root, args.name or (Path(path).stem if path else None))
    get_console().info(f"resuming {run.path}")
    loaded = load_config(path, overrides) if path else load_config(None, overrides, base=run.config)
    return replace(loaded, {"run.id": run.id, "run.name": run.name, "run.root": str(root)})


def _unfinished(target: str | None, root: Path, name: str | None) -> Run:
    if target is not None:
        return find_run(target, root, status=None)
    for run in list_runs(root):
        if run.kind == "train" and run.state != "complete" and name in (None, run.name):
            return run
    raise UsageError(f"--resume: no unfinished training run in {root}/; `scaledl runs` lists what is there")


def _positive_ints(flag: str, values: Sequence[Any]) -> list[int]:
    try:
        numbers = [int(value) for value in values]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1 or max(numbers) > 65536:
        raise UsageError(f"{flag}: got {','.join(map(str, values))}; allowed: whole numbers from 1 to 65536")
    return numbers


def _json(document: Any) -> None:
    get_console().result(json.dumps(document, indent=2))


def _run_result(args: argparse.Namespace, run: Run, next_command: str) -> None:
    if args.json:
        return _json(_run_document(run))
    console = get_console()
    console.result(f"test accuracy {run.manifest.metrics['test_accuracy']:.2%}")
    console.result(f"run     {run.path}")
    console.result(f"report  {run.path / 'report.html'}")
    return console.result(f"next    {next_command}")


def _chain_result(args: argparse.Namespace, source: Run, run: Run) -> None:
    from scaledl.compress.pipeline import format_rows, read_rows

    rows = read_rows(run.path / "table.json")
    if args.json:
        return _json({**_run_document(run), **json.loads((run.path / "table.json").read_text())})
    console = get_console()
    console.table(*format_rows(rows))
    artifact = run.exports / "model.ts"
    console.result(f"artifact  {artifact} (verified)")
    console.result(f"report    {run.path / 'report.html'}")
    console.result("try next:")
    program = _program()
    console.result(f"  {program} bench {source.path} {artifact}")
    console.result(f"  {program} evaluate {artifact}")
    return console.result(f"  {program} compress {source.path} --method ptq")


def _program() -> str:
    """How this command was started, so that it can be typed again."""
    import shutil
    import sys

    started = Path(sys.argv[0])
    if started.name != "scaledl" or shutil.which("scaledl") == str(started.absolute()):
        return "scaledl"
    path = started.absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _run_document(run: Run) -> dict[str, Any]:
    manifest = run.manifest
    return {
        "path": str(run.path),
        "name": run.name,
        "id": run.id,
        "kind": run.kind,
        "status": run.state,
        "created": manifest.created,
        "metrics": manifest.metrics,
        "parents": [vars(parent) for parent in manifest.parents],
        "error": manifest.error,
    }


def _run_row(run: Run) -> list[str]:
    manifest = run.manifest
    accuracy = manifest.metrics.get("test_accuracy")
    parent = ", ".join(f"{parent.name}/{parent.id}" for parent in manifest.parents)
    shown = "" if accuracy is None else f"{accuracy:.2%}"
    return [f"{run.name}/{run.id}", run.kind, run.state, shown, _age(manifest.created), parent]


def _age(created: str) -> str:
    from datetime import UTC, datetime

    seconds = (datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _entry_document(entry: Any) -> dict[str, Any]:
    return _run_document(entry) if isinstance(entry, Run) else {**vars(entry), "status": "not here"}


def _entry_line(entry: Any, current: Run) -> str:
    if not isinstance(entry, Run):
        return f"{entry.name}/{entry.id}  (not here; sha256 {entry.sha256[:12]})"
    accuracy = entry.manifest.metrics.get("test_accuracy")
    shown = "" if accuracy is None else f"  test accuracy {accuracy:.2%}"
    mark = "  <-" if entry.path == current.path else ""
    return f"{entry.path}  {entry.kind}  {entry.state}{shown}{mark}"


def _print_verification(args: argparse.Namespace, path: Path, verification: Any) -> None:
    if args.json:
        return _json({"path": str(path), **verification.to_dict()})
    console = get_console()
    rows = [["ok" if check.ok else "FAILED", check.name, check.detail] for check in verification.checks]
    console.table(["", "check", "detail"], rows)
    return console.result(f"{path}: {'verified' if verification.ok else 'NOT verified'}")
