"""Values that know where they were written, and how layers of them are merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .schema import DEFAULT_FAMILY, DataConfig, MethodSection, OptimizerConfig, SchedulerConfig, Section

MAX_DEPTH = 50
MODEL = ("model",)
STAGES = ("compress", "stages")
# Sections in which one key decides which others are of use.
DECIDED: dict[tuple[str | int, ...], tuple[str, type[MethodSection] | type[DataConfig]]] = {
    ("data",): ("source", DataConfig),
    ("optimizer",): ("name", OptimizerConfig),
    ("scheduler",): ("name", SchedulerConfig),
}

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """A value and its place: a scalar, a mapping of nodes or a list of nodes.

    `text` is what a plain (unquoted) scalar looked like; `addressed` marks a mapping that comes from a dotted key,
    whose numbers point into a list.
    """

    value: Any
    origin: str
    text: str | None = None
    addressed: bool = False


def plain(node: Node) -> Any:
    """The value without its places."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def from_plain(value: Any, origin: str) -> Node:
    """A tree of an ordinary value (config sections and NumPy scalars included), all from one place."""
    if isinstance(value, Section):
        value = value.model_dump()
    if isinstance(value, Mapping):
        return Node({str(key): from_plain(child, origin) for key, child in value.items()}, origin)
    if isinstance(value, (list, tuple)):
        return Node([from_plain(child, origin) for child in value], origin)
    return Node(value.item() if hasattr(value, "item") else value, origin)


def at_dotted_key(parts: Sequence[str], leaf: Node) -> Node:
    """The tree that holds nothing but this leaf, under this path."""
    for part in reversed(parts):
        leaf = Node({part: leaf}, leaf.origin, addressed=True)
    return leaf


def find(node: Node, path: Path) -> Node | None:
    """The node at a path, or None."""
    for part in path:
        try:
            node = node.value[part]
        except (KeyError, IndexError, TypeError):
            return None
        if not isinstance(node, Node):  # a text was indexed
            return None
    return node


def origin_of(node: Node, path: Path) -> str:
    """Where the deepest part of the path that exists was written; "default" when nothing of it was."""
    for length in range(len(path), 0, -1):
        found = find(node, path[:length])
        if found is not None:
            return found.origin
    return "default"


def with_value(node: Node, path: Path, leaf: Node | None) -> Node:
    """A copy with another leaf at an existing path; None takes the key away (in a mapping)."""
    if not path:
        return leaf if leaf is not None else node
    head, rest = path[0], path[1:]
    value = node.value.copy()
    if not rest and leaf is None:
        del value[head]
    else:
        value[head] = with_value(value[head], rest, leaf)
    return replace(node, value=value)


def tag_key(path: Path) -> str | None:
    """The key that decides which other keys the section at this path has, or None."""
    if path == MODEL or (path[:2] == STAGES and path[3:] == ("student",)):
        return "family"
    return "method" if len(path) == 3 and path[:2] == STAGES else None


def merge(lower: Node, upper: Node, path: Path = (), *, replace_tagged: bool = True) -> Node:
    """Lay one tree over another: mappings are merged, all else of the upper wins.

    A model of another family, or a stage of another method, replaces what it lies on, and an optimizer, a schedule or
    a data source of another name what only others have (unless `replace_tagged` is off).
    """
    below, above = lower.value, upper.value
    if not isinstance(above, dict):
        return upper
    if isinstance(below, list) and upper.addressed and all(index_of(key, below) is not None for key in above):
        return _merge_into_list(lower, upper, path, replace_tagged)
    if not isinstance(below, dict) or (replace_tagged and _changes_tag(below, above, tag_key(path))):
        return upper
    foreign = _foreign(above, path) if replace_tagged else []
    merged = {key: child for key, child in below.items() if key not in foreign}
    for key, child in above.items():
        old = merged.get(key)
        merged[key] = merge(old, child, (*path, key), replace_tagged=replace_tagged) if old else child
    return Node(
        merged, lower.origin if upper.addressed else upper.origin, addressed=lower.addressed and upper.addressed
    )


def _merge_into_list(lower: Node, upper: Node, path: Path, replace_tagged: bool) -> Node:
    items = list(lower.value)
    for key, child in upper.value.items():
        i = int(key)
        items[i] = merge(items[i], child, (*path, i), replace_tagged=replace_tagged)
    return replace(lower, value=items)


def index_of(key: str, items: list[Node]) -> int | None:
    """The position that a part of a dotted key names, or None when there is none."""
    valid = key.isascii() and key.isdigit() and len(key) < 10 and int(key) < len(items)
    return int(key) if valid else None


def _foreign(above: dict[str, Node], path: Path) -> list[str]:
    key, section = DECIDED.get(path, ("", OptimizerConfig))
    return section.foreign(above[key].value) if key in above else []


def _changes_tag(below: dict[str, Node], above: dict[str, Node], tag: str | None) -> bool:
    if tag is None or tag not in above:
        return False
    default = DEFAULT_FAMILY if tag == "family" else None
    old = below[tag].value if tag in below else default
    return bool(above[tag].value != old)
