"""data prepare, inspect, stats, preview, audit."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaledl.commands.arguments import chosen_run, positive_ints, split_arguments
from scaledl.commands.output import command, print_json
from scaledl.config import Config, load_config
from scaledl.console import get_console
from scaledl.errors import UsageError, VerdictError

if TYPE_CHECKING:
    from scaledl.api.datasets import Suspect

SPLITS = ("train", "val", "test")


def data(args: argparse.Namespace) -> None:
    ACTIONS[args.action](args)


def _prepare(args: argparse.Namespace) -> None:
    if args.out is None:
        raise UsageError("--out: missing; give a folder for the data set")
    path, overrides = split_arguments(args.args)
    if args.size is not None:
        overrides.append(f"data.prepare.size={args.size}")
    config = load_config(path, overrides, space=False)
    from scaledl import api

    out = Path(args.out)
    document, page = api.prepare_data(args.source, out, config, force=args.force)
    shown = {key: value for key, value in document.items() if key != "profile"}
    print_json({"path": str(out), "page": str(page), **shown}) if args.json else _print_prepared(out, document, page)


def _print_prepared(out: Path, document: dict[str, Any], page: Path) -> None:
    console = get_console()
    for note in document["notes"]:
        console.info(note)
    rows = ", ".join(f"{one['rows']:,} {split}{_cut(one)}" for split in SPLITS for one in [document["splits"][split]])
    console.result(f"data set  {out}  {_what(document)}")
    console.result(f"rows      {rows}{_unlabeled(document)}")
    console.result(f"left out  {_left_out(out, document)}")
    console.result(f"page      {page}")
    source = str(out) if "/" in str(out) else f"./{out}"
    from scaledl.data.prepare.next_step import training_keys

    console.result(f"try next:\n  {command('train', f'data.source={source}', *training_keys(document))}")


def _unlabeled(document: dict[str, Any]) -> str:
    if not document.get("unlabeled"):
        return ""
    what = "all of their numbers" if document.get("target") == "numbers" else "a label"
    return f"; {document['unlabeled']:,} of train without {what}"


def _cut(split: dict[str, Any]) -> str:
    """Into how many files, where a split is streamed."""
    count = len(split.get("shards", ()))
    return f" in {count:,} shard{'' if count == 1 else 's'}" if count else ""


def _left_out(out: Path, document: dict[str, Any]) -> str:
    if not document["dropped"]:
        return "nothing"
    common = Counter(document["dropped"]).most_common(4)
    listed = ", ".join(f"{count} x {reason}" for reason, count in common)
    return f"{sum(document['dropped'].values()):,}: {listed}; all of them: {out / 'dropped.jsonl'}"


def _what(document: dict[str, Any]) -> str:
    """In a few words: kind, shape, classes."""
    shape = "x".join(map(str, document["in_shape"])) if document.get("in_shape") else ""
    if document["modality"] == "table":
        shape = f"of {len(document['columns'])} columns"
    target, count = document.get("target", "class"), len(document["labels"])
    numbers = f"{count} number{'' if count == 1 else 's'} to predict"
    learned = {"numbers": numbers, "none": "no labels", "tags": f"{count} tags"}
    return " ".join(filter(None, [document["modality"], shape])) + f", {learned.get(target, f'{count} classes')}"


def _inspect(args: argparse.Namespace) -> None:
    target, overrides = split_arguments(args.args)
    from scaledl import api
    from scaledl.api.datasets import is_unprepared

    if target is not None and is_unprepared(target):
        return _survey(args, target, load_config(None, overrides, space=False))
    config = _config(args)

    if args.verify and (changed := api.changed_files(config)):
        raise VerdictError(f"{config.data.root}: not the bytes that it was made with: {', '.join(changed)}")
    document = api.describe_data(config)
    if args.json:
        shown = {key: value for key, value in document.items() if key != "profile"}
        return print_json({**shown, **({"verified": True} if args.verify else {})})
    console = get_console()
    console.result(f"data set     {document['source']}  {_what(document)}")
    rows = ", ".join(f"{count:,} {split}" for split, count in document["rows"].items())
    console.result(f"rows         {rows}{_unlabeled(document)}")
    if document.get("target", "class") != "class":
        console.result(f"target       {document['target']}")
    if document["classes"]:
        console.result(f"classes      {_shortened(document['labels'])}")
        console.result(f"balance      {_balance(document)}")
    elif document["labels"]:
        console.result(f"numbers      {_shortened(document['labels'])}")
    if "columns" in document:
        console.result(f"columns      {_shortened([column['name'] for column in document['columns']])}")
    console.result(f"fingerprint  {document['fingerprint']}")
    if args.verify:
        console.result("files        as they were made")
    return None


def _survey(args: argparse.Namespace, source: str, config: Config) -> None:
    if args.verify:
        raise UsageError("--verify: only for a prepared data set; other sources are checked whenever they are read")
    from scaledl.api.datasets import survey_source

    document = survey_source(source, config)
    if args.json:
        return print_json(document)
    console = get_console()
    splits, count = document["splits"], document["num_problems"]
    what = dict.fromkeys([document["kind"], document["modality"]])  # a table is of the kind table
    console.result(f"source    {source}  not prepared; {', '.join(what)}")
    without = f", {document['unlabeled']:,} of them without a label" if "unlabeled" in document else ""
    console.result(f"items     {document['items']:,}{without}{_sizes(document)}")
    console.result(_surveyed_classes(document))
    if "columns" in document:
        console.result(f"columns   {len(document['columns'])}: {_shortened(document['columns'])}")
        console.result(f"missing   {_missing(document['missing'])}")
    if "copies" in document:
        console.result(f"copies    {_copies(document)}")
    said = ", ".join(f"{rows:,} {split}" for split, rows in splits.items())
    console.result(f"splits    {said or 'none that the source says'}")
    console.result(f"problems  {f'{count:,}; the first:' if count else 'none that shows so far'}")
    for problem in document["problems"][:5]:
        console.result(f"  {problem['key']}: {problem['reason']}")
    for note in document["notes"]:
        console.result(f"note      {note}")
    given = [argument for argument in args.args if argument != source]
    console.result(f"try next:\n  {command('data', 'prepare', source, '--out', 'FOLDER', *given)}")
    return None


def _copies(document: dict[str, Any]) -> str:
    """How many items are equal to others."""
    copies, contradictions = document["copies"], document["contradictions"]
    said = [f"{copies:,} items that are equal to another one"] if copies else []
    if contradictions:
        said.append(f"{contradictions:,} that are equal and have several labels")
    return " and ".join(said) + " (data.prepare.duplicates)" if said else "none"


def _missing(counts: dict[str, int]) -> str:
    """In which columns values are missing."""
    return _shortened([f"{count:,} in {name}" for name, count in counts.items()]) or "no values"


def _surveyed_classes(document: dict[str, Any]) -> str:
    counts = document["classes"]
    if not counts:
        return f"target    {document['target']}"
    low, high = min(counts.values()), max(counts.values())
    balance = f"{low:,} to {high:,} items of a class" if low < high else f"{high:,} items of every class"
    return f"classes   {len(counts):,}: {_shortened(list(counts))}; {balance}"


def _sizes(document: dict[str, Any]) -> str:
    if "height" not in document:
        return ""
    (low, high), (narrow, wide) = document["height"], document["width"]
    found = f"{narrow}x{low}" if (low, narrow) == (high, wide) else f"{narrow}x{low} to {wide}x{high}"
    return f"; {document['looked_at']:,} looked at: {found} pixels (width x height)"


def _shortened(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _balance(document: dict[str, Any]) -> str:
    counts = document["classes"]["train"]
    if min(counts) == max(counts):
        return f"{counts[0]:,} training samples of every class"
    return (
        f"{min(counts):,} to {max(counts):,} training samples of a class, {max(counts) / max(1, min(counts)):.1f} times"
    )


def _stats(args: argparse.Namespace) -> None:
    config = _config(args)
    from scaledl import api

    document = api.describe_data(config)
    if args.json:
        return print_json(document)
    counts, total = document["classes"], max(1, document["rows"]["train"])
    rows = [
        [name, *(f"{counts[split][i]:,}" for split in SPLITS), f"{100 * counts['train'][i] / total:.1f} %"]
        for i, name in enumerate(document["labels"] if counts else ())
    ]
    if counts:
        get_console().table(["class", *SPLITS, "share of train"], rows)
    if targets := _targets(document):
        get_console().table(["to predict", "mean", "std"], targets)
    if "columns" in document:
        return get_console().table(["column", "kind", "mean", "std", "min", "max", "missing"], _column_rows(document))
    if "mean" not in document:
        return None
    values = zip(_channels(document), document["mean"], document["std"], strict=True)
    return get_console().table(["channel", "mean", "std"], [[name, f"{m:.4f}", f"{s:.4f}"] for name, m, s in values])


def _targets(document: dict[str, Any]) -> list[list[str]]:
    """Of numbers that are to be predicted what they are in training; a prepared set says it by number."""
    if document.get("targets"):
        return [[one["name"], _figure(one["mean"]), _figure(one["std"])] for one in document["targets"]]
    found = zip(document["labels"], document.get("target_mean", ()), document.get("target_std", ()), strict=False)
    return [[name, _figure(mean), _figure(std)] for name, mean, std in found]


def _channels(document: dict[str, Any]) -> list[str]:
    count = len(document["mean"])
    if document["modality"] == "image":
        return ["grey"] if count == 1 else ["red", "green", "blue"]
    what = "column" if document["modality"] == "table" else "dimension"
    return [f"{what} {number}" for number in range(1, count + 1)]


def _column_rows(document: dict[str, Any]) -> list[list[str]]:
    return [
        [
            column["name"],
            column["kind"] if column["kind"] == "numeric" else f"{len(column['categories'])} categories",
            *(_figure(column.get(name)) for name in ("mean", "std", "min", "max")),
            str(column["missing"]),
        ]
        for column in document["columns"]
    ]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _preview(args: argparse.Namespace) -> None:
    config = _config(args)
    [count] = positive_ints("--count", [args.count])
    [epoch] = positive_ints("--epoch", [args.epoch], least=0)
    from scaledl import api

    path = api.preview(config, Path(args.output), count=min(count, 1024), epoch=epoch)
    print_json({"preview": str(path)}) if args.json else get_console().result(str(path))


def _audit(args: argparse.Namespace) -> None:
    run = chosen_run(args.run, args.root, kinds=("train",))
    splits = args.split.split(",")
    if wrong := [split for split in splits if split not in SPLITS]:
        raise UsageError(f"--split: got {wrong[0]!r}; allowed: {', '.join(SPLITS)}, or several with commas")
    [top] = positive_ints("--top", [args.top])
    from scaledl import api

    suspects, looked_at = api.audit(run, splits, trust=args.trust)
    if args.json:
        return print_json({"run": str(run.path), "samples": looked_at, "suspects": [vars(one) for one in suspects]})
    console = get_console()
    are = "is" if len(suspects) == 1 else "are"
    console.result(f"{len(suspects)} of {looked_at:,} labels ({', '.join(splits)}) {are} doubted by {run.path}")
    if not suspects:
        return None
    return console.table(*doubted_table(suspects[:top]))


def doubted_table(suspects: Sequence[Suspect]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows; without that of the items where they have no names, as in our own sources."""
    columns = ["id", "split", "label", "suggested", "confidence", "item"]
    rows = [[str(s.id), s.split, s.label, s.suggested, f"{100 * s.confidence:.1f} %", s.key] for s in suspects]
    shown = len(columns) - (not any(s.key for s in suspects))
    return columns[:shown], [row[:shown] for row in rows]


def _config(args: argparse.Namespace) -> Config:
    target, overrides = split_arguments(args.args)
    from scaledl.api.datasets import config_of_data

    return config_of_data(target if target is not None else "digits", overrides)


ACTIONS = {"prepare": _prepare, "inspect": _inspect, "stats": _stats, "preview": _preview, "audit": _audit}
