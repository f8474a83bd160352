"""find lr, find batch_size."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from scaledl.commands.arguments import given_config, positive_ints
from scaledl.commands.output import print_json
from scaledl.config import Config
from scaledl.console import get_console
from scaledl.errors import UsageError

if TYPE_CHECKING:
    from scaledl.train.find_batch_size import Measured
    from scaledl.train.find_lr import LrRange

_ROWS = 20


def find(args: argparse.Namespace) -> None:
    args.id = None
    config = given_config(args)
    return _lr(args, config) if args.action == "lr" else _batch_size(args, config)


def _lr(args: argparse.Namespace, config: Config) -> None:
    [steps] = positive_ints("--steps", [args.steps], least=10)
    low, high = (_number(flag, text) for flag, text in (("--from", args.low), ("--to", args.high)))
    from scaledl import api

    found = api.find_lr(config, low=low, high=high, steps=steps)
    line = None if found.suggestion is None else f"optimizer.lr={float(f'{found.suggestion:.2g}'):g}"
    if args.json:
        return print_json({"suggestion": found.suggestion, "line": line, "rates": found.rates, "losses": found.losses})
    console = get_console()
    console.table(["learning rate", "loss", ""], _lr_rows(found))
    if line is None:
        return console.result("no rate lowered the loss; try more --steps, a lower --from, or look at the data")
    return console.result(f"suggestion  {line}")


def _lr_rows(found: LrRange) -> list[list[str]]:
    """Every few steps, and the rows that decide."""
    stride = max(1, math.ceil(len(found.rates) / _ROWS))
    steepest = found.rates.index(found.suggestion) if found.suggestion is not None else -1
    marks = {found.lowest: "lowest loss", steepest: "steepest fall"}
    chosen = [n for n in range(len(found.rates)) if n % stride == 0 or n in marks]
    return [[f"{found.rates[n]:.2e}", f"{found.losses[n]:.4f}", marks.get(n, "")] for n in chosen]


def _batch_size(args: argparse.Namespace, config: Config) -> None:
    from scaledl import api
    from scaledl.train.find_batch_size import choose

    measured = api.find_batch_size(config)
    chosen = choose(measured)
    lines = _lines(chosen, config)
    if args.json:
        return print_json({"suggestion": chosen, "lines": lines, "measured": [_document(one) for one in measured]})
    console = get_console()
    console.table(["micro-batch", "ms a step", "samples/s", ""], [_row(one, chosen) for one in measured])
    if chosen is None:
        return console.result("no micro-batch fits into memory; use a smaller model")
    console.result("suggestion  " + ", or for batches as they are ".join(lines))
    return console.result("a learning rate belongs to a batch size: `scaledl find lr` finds it for this one")


def _lines(chosen: int | None, config: Config) -> list[str]:
    """As keys of the config, whose batch size counts all ranks and micro-batches."""
    if chosen is None:
        return []
    ranks = config.trainer.devices if config.trainer.devices != "auto" else 1
    ranks *= config.trainer.num_nodes if config.trainer.num_nodes != "auto" else 1
    accumulate, rest = divmod(config.data.batch_size, chosen * ranks)
    as_they_are = [f"trainer.accumulate={accumulate}"] if accumulate > 1 and not rest else []
    return [f"data.batch_size={chosen * ranks}", *as_they_are]


def _row(one: Measured, chosen: int | None) -> list[str]:
    if one.seconds is None:
        return [str(one.batch_size), "", "", "does not fit into memory"]
    mark = "suggestion" if one.batch_size == chosen else ""
    return [str(one.batch_size), f"{1000 * one.seconds:.2f}", f"{one.throughput:,.0f}", mark]


def _document(one: Measured) -> dict[str, Any]:
    return {"batch_size": one.batch_size, "seconds": one.seconds, "samples_per_second": one.throughput}


def _number(flag: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise UsageError(f"{flag}: got {text!r}; allowed: a number greater than 0, such as 1e-5")
    return number
