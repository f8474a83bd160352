"""list: what a config may name, from the tables that the config itself is checked by. Nothing is imported for it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from scaledl.commands.output import print_json
from scaledl.config.nearest import nearest
from scaledl.config.registry import LISTED
from scaledl.console import get_console
from scaledl.errors import UsageError

HEADING = "# What a config may name\n\nMade by `scaledl list --markdown` from the tables that configs are checked by.\n"


def listing(args: argparse.Namespace) -> None:
    kinds = [_known(args.kind)] if args.kind else [*LISTED]
    if args.markdown:
        return get_console().result("\n".join(_markdown(kinds)))
    if args.json:
        return print_json({kind: _documents(kind) for kind in kinds})
    for kind in kinds:
        rows = [[name, summary, source] for name, summary, source in _entries(kind)]
        get_console().table(["name", "what it is", "from"], rows, title=f"{kind} ({LISTED[kind].key})")
    return None


def _known(kind: str) -> str:
    if kind not in LISTED:
        close = nearest(kind, LISTED)
        hint = f"; did you mean '{close}'?" if close else ""
        raise UsageError(f"list: got {kind!r}; allowed: {', '.join(LISTED)}{hint}")
    return kind


def _entries(kind: str) -> Iterator[tuple[str, str, str]]:
    registry = LISTED[kind].registry
    for name in registry.names():
        entry = registry.entry(name)
        yield name, entry.summary, entry.source


def _documents(kind: str) -> list[dict[str, str]]:
    return [
        {"name": name, "key": LISTED[kind].key, "summary": summary, "source": source}
        for name, summary, source in _entries(kind)
    ]


def _markdown(kinds: list[str]) -> Iterator[str]:
    yield HEADING
    for kind in kinds:
        yield f"## {kind.capitalize()} (`{LISTED[kind].key}`)\n\n| name | what it is | from |\n|---|---|---|"
        for name, summary, source in _entries(kind):
            yield f"| `{name}` | {summary} | {source} |"
        yield ""
