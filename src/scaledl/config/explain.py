"""One validation error of pydantic to a problem in the user's words."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace as with_fields
from typing import Any

from pydantic_core import ErrorDetails

from .errors import COMMAND_LINE, Problem, dotted, show
from .keys import KeyInfo, config_keys
from .nearest import nearest, nearest_key
from .schema import DEFAULT_FAMILY
from .tree import MODEL, STAGES, Node, Path, find, origin_of, plain
from .words import Schema, allowed_words, child, names_of, properties, schema, variants

NO_LIST = "there is no list to point into; give it whole: KEY='[...]'"


def locate(loc: tuple[int | str, ...], at: Path = ()) -> tuple[Path, Schema | None]:
    """The path and the schema that an error's location names.

    pydantic puts the names of union members between the keys: ("model", "resnet", "width") is `model.width`.
    `at` is where the validated part stands in the config; a student is validated as a model section.
    """
    node: Schema | None = schema()["properties"]["model"] if at else schema()
    path = list(at)
    for part in loc:
        several = variants(node) if node else None
        below = child(node, part) if node else None
        if several and isinstance(part, str):
            node = several[1].get(part)
        elif below is not None or node is None or properties(node):
            path.append(part)
            node = below
        else:
            break  # the name of a union's member, of a value that is no section
    return tuple(path), node


def explain(error: ErrorDetails, tree: Node, at: Path = (), family: str = "") -> Iterator[Problem]:
    """The problems that an error stands for, with the places from the tree. `family`: of the student at `at`."""
    if error["loc"][-1:] == ("[key]",):
        yield _wrong_name(error, tree, at)
        return
    path, node = locate(error["loc"], at)
    match error["type"]:
        case "conflicts":
            yield from _conflicts(error, tree)
        case "stage_order":
            yield _stage_order(error, tree, path)
        case "extra_forbidden":
            yield _unknown_key(tree, path, at, family, locate(error["loc"][:-1], at)[1] or {})
        case "union_tag_invalid" | "union_tag_not_found":
            yield _wrong_tag(tree, path, node or {}, family)
        case "missing":
            section = _problem(tree, path[:-1], locate(error["loc"][:-1], at)[1] or {})
            yield with_fields(section, fix=f"give it {path[-1]}")
        case _:
            yield _problem(tree, path, node or {})


def _value(tree: Node, path: Path) -> Any:
    found = find(tree, path)
    return plain(found) if found else None


def _problem(tree: Node, path: Path, node: Schema) -> Problem:
    value = _value(tree, path)
    return Problem(dotted(path), origin_of(tree, path), _got(value, node), allowed_words(node), _fix(value, node))


def _got(value: Any, node: Schema) -> str:
    a_text_for_a_number = isinstance(value, str) and not names_of(node) and _type(node) != "string"
    return f"the text {show(value)}" if a_text_for_a_number else show(value)


def _type(node: Schema) -> str:
    """The JSON type that a value must have (the first, where several may stand)."""
    return str((node.get("anyOf") or [node])[0].get("type", ""))


def _fix(value: Any, node: Schema) -> str:
    kind = _type(node)
    if isinstance(value, str):
        return _fix_text(value, node, kind)
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        return f"write {show(int(value))}"
    if kind == "number" and isinstance(value, float) and not math.isfinite(value):
        return "it must be finite"
    if kind == "array" and isinstance(value, dict):
        return NO_LIST if all(key.isdigit() for key in value) else "write it as a list: [a, b]"
    if variants(node) and not isinstance(value, dict):
        return "write keys and values below it"
    return "put it in quotes" if kind == "string" and isinstance(value, bool) and not names_of(node) else ""


def _fix_text(value: str, node: Schema, kind: str) -> str:
    close = nearest(value, names_of(node)) if names_of(node) else None
    if close:
        return f"did you mean '{close}'?"
    if kind == "boolean" and value.lower() in ("yes", "on", "no", "off"):
        return f"write {'true' if value.lower() in ('yes', 'on') else 'false'}"
    if kind in ("integer", "number") and len(value) <= 40 and re.fullmatch(r"[-+]?[0-9_., ]+(e-?[0-9]+)?", value):
        number = re.sub(r"(?<=\d)[_ ](?=\d)", "", value)
        return f"write {number}, without quotes" if re.fullmatch(r"[-+]?[0-9]*\.?[0-9]+(e-?[0-9]+)?", number) else ""
    several = variants(node)
    return f"write {{{several[0]}: {value}}}" if several and value in several[1] else ""


def _conflicts(error: ErrorDetails, tree: Node) -> Iterator[Problem]:
    for conflict in error["ctx"]["conflicts"]:
        fix = f"change it or {conflict.against} ({_given_by(tree, conflict.against)})"
        yield Problem(
            conflict.key, _given_by(tree, conflict.key), conflict.got, conflict.allowed, fix, against=conflict.against
        )


def _given_by(tree: Node, key: str) -> str:
    """Where the value of a key is from: not from what wrote others of its section, if it was left out there."""
    *above, last = key.split(".")
    section = find(tree, tuple(above))
    left_out = section is not None and isinstance(section.value, dict) and last not in section.value
    return "default" if left_out else origin_of(tree, (*above, last))


def _stage_order(error: ErrorDetails, tree: Node, path: Path) -> Problem:
    methods = ", ".join(stage["method"] for stage in _value(tree, path))
    return Problem(dotted(path), origin_of(tree, path), methods, "an order that can work", error["ctx"]["problem"])


def _wrong_tag(tree: Node, path: Path, node: Schema, family: str) -> Problem:
    """The key that decides which keys a section has is missing or unknown."""
    several = variants(node)
    assert several is not None
    names = list(several[1])
    path = (*path, several[0])
    found = find(tree, path)
    value = plain(found) if found else family
    close = nearest(value, names) if isinstance(value, str) else None
    hint = f"did you mean '{close}'?" if close else ""
    got = show(value) if value != "" else f"no {several[0]}"
    return Problem(dotted(path), origin_of(tree, path), got, f"one of {', '.join(names)}", hint)


def _wrong_name(error: ErrorDetails, tree: Node, at: Path) -> Problem:
    """A key of a section in which names are free, but not all of them."""
    *above, name, _ = error["loc"]
    path, node = locate(tuple(above), at)
    return Problem(dotted(path), origin_of(tree, (*path, name)), f"the key {show(name)}", allowed_words(node or {}))


def _unknown_key(tree: Node, path: Path, at: Path, family: str, node: Schema) -> Problem:
    if path == ("base",):
        return Problem("base", origin_of(tree, path), what="'base' can stand in a config file only")
    section = (*MODEL,) if at else path[:-1]
    pattern = _pattern(section)
    variant = family or _variant(tree, section)
    siblings = _siblings(pattern, variant) or list(properties(node))  # of a section whose own name is free
    other = _of_other_variant(pattern, str(path[-1]), variant)
    fix = other or _meant(tree, path, siblings, at)
    origin = origin_of(tree, path)
    allowed = [key for key in siblings if key != "base" or origin != COMMAND_LINE]
    return Problem(dotted(path), origin, "", ", ".join(allowed), fix, what="unknown key")


def _pattern(path: Path) -> str:
    """The dotted key as `config_keys` writes it, entries of lists as []."""
    return re.sub(r"\.\[\]", "[]", ".".join("[]" if isinstance(part, int) else part for part in path))


def _variant(tree: Node, section: Path) -> str:
    """The family or the method of a section; empty where there is none."""
    if section == MODEL:
        return str(_value(tree, (*MODEL, "family")) or DEFAULT_FAMILY)
    return str(_value(tree, (*section, "method"))) if section[:-1] == STAGES else ""


def _siblings(pattern: str, variant: str) -> list[str]:
    """The known last parts in a section."""
    prefix = f"{pattern}." if pattern else ""
    keys = [info.key for info in config_keys() if info.variant in ("", variant) or not pattern]
    inside = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
    return list(dict.fromkeys(re.split(r"[.\[]", key)[0] for key in inside))


def _of_other_variant(pattern: str, last: str, variant: str) -> str:
    owners = [info.variant for info in config_keys() if info.key == f"{pattern}.{last}"]
    if not owners:
        return ""
    return f"it is a key of {_listed(owners)}, and this section is of {variant}"


def _listed(names: list[str]) -> str:
    """
    >>> _listed(["cnn", "mlp", "vae"])
    'cnn, mlp and vae'
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _meant(tree: Node, path: Path, siblings: list[str], at: Path) -> str:
    last = str(path[-1])
    known = [] if at else [_first_entry(info) for info in _active_keys(tree)]
    if last in known:  # a dotted key in a file
        *sections, key = last.split(".")
        return f"write {': {'.join(sections)}: {{{key}: …{'}' * len(sections)}"
    meant = nearest_key(".".join(map(str, path)), siblings, known)
    return f"did you mean '{meant}'?" if meant else ""


def _active_keys(tree: Node) -> list[KeyInfo]:
    family = _variant(tree, MODEL)
    return [info for info in config_keys() if not info.key.startswith("model.") or info.variant in ("", family)]


def _first_entry(info: KeyInfo) -> str:
    return info.key.replace("[]", ".0")
