"""`key=value` from the command line to nodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace as with_fields

from .errors import COMMAND_LINE, ConfigError, Problem, dotted, printable, show
from .scalars import resolve_scalar
from .tree import MAX_DEPTH, Node, at_dotted_key, index_of, merge
from .yaml_source import parse_yaml

YAML_INDICATORS = tuple("[{\"'&*!|>%@`")


def parse_override(text: str) -> tuple[str, Node]:
    """The dotted key and the value of `key=value`, split at the first `=`. Raises ConfigError."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals:
        raise ConfigError([_no_equals(text)])
    if not key or not all(key.split(".")) or key.count(".") >= MAX_DEPTH:
        raise ConfigError([Problem("", COMMAND_LINE, show(text), "key=value with a dotted key such as optimizer.lr")])
    return key, parse_value(value, dotted(key.split(".")))


def parse_value(text: str, key: str) -> Node:
    """The value of an override: a list, mapping or quoted text as YAML, all else a plain scalar to its end.

    >>> parse_value("data #1: a", "run.root").value
    'data #1: a'
    >>> [node.value for node in parse_value("[1e-3, no]", "x").value]
    [0.001, 'no']
    """
    text = text.strip()
    if not text.startswith(YAML_INDICATORS):
        return Node(resolve_scalar(text), COMMAND_LINE, text)
    node, problems = parse_yaml(text, lambda line: COMMAND_LINE, key)
    if problems:
        raise ConfigError(problems)
    return node if node is not None else Node(None, COMMAND_LINE)


def parse_overrides(texts: Iterable[str]) -> tuple[Node, list[Problem]]:
    """One tree of all overrides, later ones over earlier ones, and the problems of those that are none."""
    tree = Node({}, COMMAND_LINE, addressed=True)
    problems: list[Problem] = []
    for text in texts:
        try:
            key, value = parse_override(text)
        except ConfigError as error:
            problems += error.problems
        else:
            tree, missing = lay_over(tree, at_dotted_key(key.split("."), value), replace_tagged=False)
            problems += missing
    return tree, problems


def lay_over(lower: Node, overrides: Node, *, replace_tagged: bool = True) -> tuple[Node, list[Problem]]:
    """Both merged, and the overrides that point to entries which the lists below do not have (they are left out)."""
    problems: list[Problem] = []
    upper = _with_entries(lower, overrides, (), problems)
    return merge(lower, upper, replace_tagged=replace_tagged), problems


def _with_entries(lower: Node | None, upper: Node, keys: tuple[str, ...], problems: list[Problem]) -> Node:
    """The overrides without those for list entries that are not there."""
    if lower is None or not upper.addressed or not isinstance(upper.value, dict):
        return upper
    kept = {}
    for key, child in upper.value.items():
        below = _below(lower, key)
        if isinstance(lower.value, list) and below is None:
            problems.append(_no_entry((*keys, key), child, len(lower.value)))
        else:
            kept[key] = _with_entries(below, child, (*keys, key), problems)
    return with_fields(upper, value=kept)


def _below(lower: Node, key: str) -> Node | None:
    if isinstance(lower.value, dict):
        return lower.value.get(key)
    i = index_of(key, lower.value) if isinstance(lower.value, list) else None
    return None if i is None else lower.value[i]


def _no_entry(keys: tuple[str, ...], node: Node, count: int) -> Problem:
    above = dotted(keys[:-1])
    allowed = f"0 to {count - 1}" if count else ""
    fix = f"{above} has {count} {'entry' if count == 1 else 'entries'}; to set all of them: {above}='[...]'"
    return Problem(dotted(keys), node.origin, f"entry {show(keys[-1])}", allowed, fix)


def _no_equals(text: str) -> Problem:
    fix = f"write {printable(text[:80])}=VALUE"
    if text.endswith((".yaml", ".yml")):
        fix = "one config file is taken, before the overrides; include others with 'base:'"
    return Problem("", COMMAND_LINE, show(text), "key=value", fix if text.strip() else "")
