"""The JSON Schema of the config in words: what is allowed, of which type, by default."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from .errors import show
from .schema import (
    EPOCH_PATTERN,
    EXTERNAL_PATTERN,
    FOLDER_PATTERN,
    HEAD_PATTERN,
    NAME_PATTERN,
    OWN_PATTERN,
    TOKENIZER_PATTERN,
    Config,
)

Schema = dict[str, Any]

PATTERNS = {
    NAME_PATTERN: "a name of at most 100 letters, digits, '.', '_', '-', beginning with a letter or digit",
    OWN_PATTERN: "one's own as path.to.module:name",
    FOLDER_PATTERN: "a folder of a prepared data set (with a slash: ./NAME)",
    TOKENIZER_PATTERN: "a tokenizer file of Hugging Face (FILE.json)",
    EXTERNAL_PATTERN: "timm:NAME, torchvision:NAME, hf:NAME or python.path:Class",
    EPOCH_PATTERN: "numbers of epochs",
    HEAD_PATTERN: "names of small letters, digits and '_', beginning with a letter",
}


@cache
def schema() -> Schema:
    """The JSON Schema of `Config`; made when first asked for, as only errors and listings need it."""
    return Config.model_json_schema()


def resolve(node: Schema) -> Schema:
    """The schema itself, behind a reference or beside null."""
    while True:
        options = [option for option in node.get("anyOf", ()) if option.get("type") != "null"]
        if "$ref" in node:
            node = schema()["$defs"][node["$ref"].rpartition("/")[2]]
        elif len(options) == 1:
            node = options[0]
        else:
            return node


def variants(node: Schema) -> tuple[str, dict[str, Schema]] | None:
    """The deciding key and the schemas by its value, when the schema is one of several sections; else None."""
    discriminator = resolve(node).get("discriminator")
    if not discriminator:
        return None
    return discriminator["propertyName"], {name: {"$ref": ref} for name, ref in discriminator["mapping"].items()}


def properties(node: Schema) -> dict[str, Schema]:
    """The keys of a section and their schemas."""
    found: dict[str, Schema] = resolve(node).get("properties", {})
    return found


def child(node: Schema, part: str | int) -> Schema | None:
    """The schema of a key (of whatever name, where names are free) or of a list's entry; None where there is none."""
    node = resolve(node)
    if "patternProperties" in node:
        return next(iter(node["patternProperties"].values()), None)
    if isinstance(part, str):
        return properties(node).get(part)
    prefix: list[Schema] = node.get("prefixItems", [])
    item: Schema | None = prefix[part] if part < len(prefix) else node.get("items")
    return item


def allowed_words(node: Schema) -> str:
    """What a value may be.

    >>> allowed_words({"type": "number", "exclusiveMinimum": 0})
    'a number greater than 0'
    >>> allowed_words({"enum": ["adamw", "sgd"], "type": "string"})
    'one of adamw, sgd'
    """
    if "anyOf" in node:
        options = [allowed_words(option) for option in node["anyOf"]]
        return (", or " if any("," in option for option in options) else " or ").join(options)
    node = resolve(node)
    if "enum" in node:
        return f"one of {', '.join(map(str, node['enum']))}"
    if "const" in node:
        return str(node["const"])
    several = variants(node)
    if several:
        return f"a section with {several[0]}: {' or '.join(several[1])}"
    return _typed_words(node)


def _typed_words(node: Schema) -> str:
    match node.get("type"):
        case "integer":
            return f"a whole number{_range_words(node, 1)}"
        case "number":
            return f"a number{_range_words(node, 0)}"
        case "string":
            return _text_words(node)
        case "boolean":
            return "true or false"
        case "array":
            return _list_words(node)
        case "object" if properties(node):
            return f"a section with the keys {', '.join(properties(node))}"
        case "object" if "patternProperties" in node:
            [(pattern, below)] = node["patternProperties"].items()
            return f"a section whose keys are {PATTERNS.get(pattern, pattern)}, each with {allowed_words(below)}"
        case "object":
            return "a section"
        case other:
            return str(other or "any value")


def _range_words(node: Schema, step: int) -> str:
    """Bounds in words; with step 1 (whole numbers) open bounds are said as closed ones."""
    low, high = node.get("minimum"), node.get("maximum")
    above, below = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
    if step and above is not None:
        low, above = above + step, None
    if step and below is not None:
        high, below = below - step, None
    if low is not None and high is not None:
        return f" from {show(low)} to {show(high)}"
    bounds = {"of at least": low, "greater than": above, "of at most": high, "less than": below}
    words = " and ".join(f"{phrase} {show(bound)}" for phrase, bound in bounds.items() if bound is not None)
    return f" {words}" if words else ""


def _text_words(node: Schema) -> str:
    if "pattern" in node:
        return PATTERNS.get(node["pattern"], f"text matching {node['pattern']}")
    return "text that is not empty" if node.get("minLength") else "text"


def _list_words(node: Schema) -> str:
    if "prefixItems" in node:
        return f"a list of {len(node['prefixItems'])}: {', '.join(map(allowed_words, node['prefixItems']))}"
    low, high = node.get("minItems", 0), node.get("maxItems")
    count = f"{low} to {high}" if high else f"at least {low}"
    return f"a list of {count}, each {allowed_words(node.get('items', {}))}"


def type_words(node: Schema) -> str:
    """The type in a word or two.

    >>> type_words({"anyOf": [{"type": "integer"}, {"type": "null"}]})
    'whole number or null'
    """
    if "anyOf" in node:
        return " or ".join(dict.fromkeys(map(type_words, node["anyOf"])))
    node = resolve(node)
    kind = str(node.get("type", "section" if variants(node) else "any"))
    names = {"integer": "whole number", "string": "text", "boolean": "true/false", "array": "list", "object": "section"}
    return names.get(kind, kind)


def default_words(node: Schema) -> str:
    """The default as it would stand in YAML; "required" without one."""
    return show(node["default"]).strip("'") if "default" in node else "required"


def names_of(node: Schema) -> Sequence[str]:
    """The names that a value may be one of; empty when any other kind of value is allowed."""
    options = node.get("anyOf") or [resolve(node)]
    values = [value for option in options for value in option.get("enum", [option.get("const")])]
    return [value for value in values if isinstance(value, str)]
