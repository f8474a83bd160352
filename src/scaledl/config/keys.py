"""Every key of a config: for the listing, for editors, and for "did you mean"."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .schema import DEFAULT_FAMILY
from .words import Schema, allowed_words, default_words, properties, resolve, schema, type_words, variants

BASE_DESCRIPTION = "Config files to lay this one over, relative to it; of several, later ones win."


@dataclass(frozen=True)
class KeyInfo:
    """A key and what it takes. Keys of one family or method name it: `compress.stages[].ratio (prune)`."""

    name: str
    type: str
    default: str
    allowed: str
    description: str

    @property
    def key(self) -> str:
        """The dotted key alone."""
        return self.name.partition(" ")[0]

    @property
    def variant(self) -> str:
        """The family or method that the key belongs to; empty for keys of every config."""
        return self.name.partition(" ")[2].strip("()")


def config_keys() -> list[KeyInfo]:
    """All keys in the order of the sections.

    >>> next(key.default for key in config_keys() if key.name == "optimizer.lr")
    '0.001'
    """
    base = KeyInfo("base", "text or list", "null", "a file or a list of files", BASE_DESCRIPTION)
    return [base, *_keys(schema(), "", "")]


def _keys(node: Schema, prefix: str, variant: str) -> Iterator[KeyInfo]:
    for part, below in properties(node).items():
        key = f"{prefix}.{part}" if prefix else part
        items = resolve(below).get("items")
        if variants(below):
            yield from _variant_keys(below, key)
        elif items is not None and variants(items):
            yield _info(key, below, variant)
            yield from _variant_keys(items, f"{key}[]")
        elif properties(below):
            yield from _keys(below, key, variant)
        else:
            yield _info(key, below, variant)


def _variant_keys(node: Schema, prefix: str) -> Iterator[KeyInfo]:
    found = variants(node)
    assert found is not None
    tag, sections = found
    default = DEFAULT_FAMILY if tag == "family" else "required"
    description = "Decides which keys the section has."
    yield KeyInfo(f"{prefix}.{tag}", "text", default, f"one of {', '.join(sections)}", description)
    for name, section in sections.items():
        yield from (info for info in _keys(section, prefix, name) if info.key != f"{prefix}.{tag}")


def _info(key: str, node: Schema, variant: str) -> KeyInfo:
    name = f"{key} ({variant})" if variant else key
    return KeyInfo(name, type_words(node), default_words(node), allowed_words(node), node.get("description", ""))


def json_schema() -> dict[str, Any]:
    """A JSON Schema document (2020-12) for editors, `base` included."""
    document = copy.deepcopy(schema())
    for section in document["$defs"].values():
        if "method" in section.get("properties", {}):
            section.setdefault("required", []).insert(0, "method")
    files = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    document["properties"] = {"base": {**files, "description": BASE_DESCRIPTION}, **document["properties"]}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "scaledl config"}
    return head | {key: value for key, value in document.items() if key != "title"}
