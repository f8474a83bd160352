"""export, verify, evaluate, bench."""

from __future__ import annotations

import argparse
from pathlib import Path

from scaledl.commands.arguments import chosen_run, positive_ints, runs_folder
from scaledl.commands.output import print_json, print_verification
from scaledl.config.figures import heading, written
from scaledl.console import get_console
from scaledl.errors import VerdictError

ANY_KIND = ("train", "compress", "stage")


def export(args: argparse.Namespace) -> None:
    run = chosen_run(args.run, args.root, kinds=ANY_KIND)
    from scaledl import api

    output = Path(args.output) if args.output is not None else None
    artifact, verification = api.export(run, output, force=args.force, trust=args.trust)
    print_verification(artifact.path, verification, as_json=args.json)


def verify(args: argparse.Namespace) -> None:
    from scaledl import api

    path = Path(args.file)
    verification = api.verify(path, trust=args.trust)
    print_verification(path, verification, as_json=args.json)
    if not verification.ok:
        failed = "; ".join(f"{check.name}: {check.detail}" for check in verification.checks if not check.ok)
        raise VerdictError(f"{path} failed its verification: {failed}")


def evaluate(args: argparse.Namespace) -> None:
    target = args.target if args.target is not None else str(chosen_run(None, args.root, kinds=()).path)
    from scaledl import api

    name, result, data = api.evaluate(target, runs_folder(args.root), split=args.split, trust=args.trust)
    if args.json:
        return print_json({"target": name, "split": args.split, **result.to_dict()})
    console = get_console()
    figures = {key: value for key, value in result.metrics.items() if key != "loss"}
    words = [f"{heading(key)} {written(key, value)}" for key, value in figures.items()]
    console.result(f"{name}: {args.split} {', '.join([*words, f'loss {result.loss:.4f}'])} ({result.count:,} samples)")
    if result.errors is not None:
        from scaledl.evaluate import error_quantiles

        shown = ", ".join(f"{share} {value:.4g}" for share, value in error_quantiles(result.errors).items())
        console.result(f"errors of single samples: {shown}")
    if result.confusion is None:
        return None
    per_class = result.confusion.diag().double() / result.confusion.sum(dim=1).clamp(min=1)
    rows = [[label, f"{100 * share:.2f} %"] for label, share in zip(data.spec.labels, per_class.tolist(), strict=True)]
    return console.table(["class", "accuracy"], rows)


def bench(args: argparse.Namespace) -> None:
    batch_sizes = positive_ints("--batch-sizes", args.batch_sizes.split(","))
    [threads] = positive_ints("--threads", [args.threads])
    [rounds] = positive_ints("--rounds", [args.rounds], least=3)
    from scaledl import api
    from scaledl.bench import to_table

    rows = api.bench(
        args.targets, runs_folder(args.root), batch_sizes=batch_sizes, threads=threads, rounds=rounds, trust=args.trust
    )
    if args.json:
        return print_json([row.to_dict() for row in rows])
    return get_console().table(*to_table(rows))
