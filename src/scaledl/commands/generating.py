"""generate."""

from __future__ import annotations

import argparse
import dataclasses
import math

from scaledl.commands.arguments import chosen_run, positive_ints, runs_folder
from scaledl.commands.output import print_json
from scaledl.console import get_console
from scaledl.errors import UsageError


def generate(args: argparse.Namespace) -> None:
    [tokens] = positive_ints("--tokens", [args.tokens])
    [top_k] = positive_ints("--top-k", [args.top_k]) if args.top_k is not None else [None]
    temperature = _number("--temperature", args.temperature, 0.0, 100.0)
    top_p = _number("--top-p", args.top_p, 0.0, 1.0)
    [seed] = positive_ints("--seed", [args.seed], least=0)
    target = args.target if args.target is not None else str(chosen_run(None, args.root, kinds=()).path)
    from scaledl import api

    drawing = api.Drawing(tokens, temperature, top_k, top_p, seed)
    made = api.generate(target, runs_folder(args.root), args.prompt, drawing, trust=args.trust)
    if args.json:
        return print_json({**dataclasses.asdict(made), **dataclasses.asdict(drawing)})
    return get_console().result(made.prompt + made.completion)


def _number(flag: str, text: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise UsageError(f"{flag}: got {text!r}; allowed: a number from {least:g} to {most:g}")
    return value
