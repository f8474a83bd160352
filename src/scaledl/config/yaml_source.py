"""YAML text to nodes that know their line. Only plain data: no tags, no merge keys, bounded size and depth.

The tree is built from the parser's events, so nothing is ever constructed that the text asks for, and an alias
costs what it expands to.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path as FilePath

import yaml

from .errors import ConfigError, Problem, printable, show
from .nearest import nearest
from .scalars import resolve_scalar
from .tree import MAX_DEPTH, Node

MAX_BYTES = 1_000_000
MAX_NODES = 20_000

Keys = tuple[str, ...]


def read_yaml(path: FilePath, origin: str) -> tuple[Node | None, list[Problem]]:
    """The tree of a file, None when there is nothing in it; duplicate keys come back as problems.

    Raises ConfigError when the file cannot be read as YAML at all.
    """
    return parse_yaml(_decode(_read(path, origin), origin), lambda line: f"{origin}:{line}")


def parse_yaml(text: str, origin: Callable[[int], str], key: str = "") -> tuple[Node | None, list[Problem]]:
    """The tree of a text and its duplicate keys. `origin` names a line (from 1); `key` is what errors are shown for."""
    builder = _Builder(yaml.parse(text, Loader=yaml.SafeLoader), origin, (key,) if key else ())
    try:
        return builder.document(), builder.problems
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            [Problem(key, origin(line), f"the character U+{_code(error):04X}", "printable text")]
        ) from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_syntax_problem(error, text, origin, key)]) from None


class _Builder:
    def __init__(self, events: Iterator[yaml.Event], origin: Callable[[int], str], keys: Keys) -> None:
        self.events = events
        self.origin = origin
        self.keys = keys
        self.problems: list[Problem] = []
        self.anchors: dict[str, tuple[Node | None, int]] = {}  # None while the anchored value is still being read
        self.nodes = 0

    def document(self) -> Node | None:
        root, documents = None, 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self.error(event, self.keys, "a second document", "one YAML document", "remove the '---'")
                root = self.node(next(self.events), self.keys)
        return root

    def error(self, event: yaml.Event, keys: Keys, got: str, allowed: str, fix: str = "") -> ConfigError:
        return ConfigError([Problem(".".join(keys), self.place(event), got, allowed, fix)])

    def place(self, event: yaml.Event) -> str:
        assert event.start_mark is not None
        return self.origin(event.start_mark.line + 1)

    def node(self, event: yaml.Event, keys: Keys, depth: int = 0) -> Node:
        self.check_size(event, keys, depth)
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event, keys, depth)
        assert isinstance(event, yaml.NodeEvent)
        self.check_tag(event, keys)
        before = self.nodes
        if event.anchor:
            self.anchors[event.anchor] = (None, 0)
        node = self.content(event, keys, depth)
        if event.anchor:
            self.anchors[event.anchor] = (node, self.nodes - before + 1)
        return node

    def check_size(self, event: yaml.Event, keys: Keys, depth: int) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise self.error(event, (), f"more than {MAX_NODES} values, aliases expanded", f"at most {MAX_NODES}")
        if depth > MAX_DEPTH:
            raise self.error(event, keys[:3], f"values nested deeper than {MAX_DEPTH}", f"at most {MAX_DEPTH} levels")

    def check_tag(self, event: yaml.NodeEvent, keys: Keys) -> None:
        tag = getattr(event, "tag", None)
        if tag is not None:
            shown = show(tag.replace("tag:yaml.org,2002:", "!!"))
            raise self.error(event, keys, f"the YAML tag {shown}", "plain values without tags", "remove the tag")

    def alias(self, event: yaml.AliasEvent, keys: Keys, depth: int) -> Node:
        name = show(event.anchor)
        if event.anchor not in self.anchors:
            raise self.error(event, keys, f"an alias to the unknown anchor {name}", "aliases to anchors above them")
        node, size = self.anchors[event.anchor]
        if node is None:
            got = f"the alias {name} inside its own anchor"
            raise self.error(event, keys, got, "aliases that do not contain themselves")
        self.nodes += size - 1
        self.check_size(event, keys, depth + _height(node))
        return node

    def content(self, event: yaml.NodeEvent, keys: Keys, depth: int) -> Node:
        if isinstance(event, yaml.ScalarEvent):
            plain = event.style is None
            value = resolve_scalar(event.value) if plain else event.value
            return Node(value, self.place(event), event.value if plain else None)
        if isinstance(event, yaml.SequenceStartEvent):
            return Node(self.items(keys, depth + 1), self.place(event))
        return Node(self.entries(keys, depth + 1), self.place(event))

    def items(self, keys: Keys, depth: int) -> list[Node]:
        items: list[Node] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.node(event, (*keys, str(len(items))), depth))
        return items

    def entries(self, keys: Keys, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.key(event, keys)
            path = (*keys, printable(key))
            value = self.node(next(self.events), path, depth)
            if key in entries:
                self.problems.append(_duplicate(path, entries[key].origin, self.place(event)))
            else:
                entries[key] = Node(value.value, self.place(event), value.text)
        return entries

    def key(self, event: yaml.Event, keys: Keys) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            raise self.error(event, keys, "a key that is not a word", "keys that are plain words")
        self.check_tag(event, keys)
        if event.value == "<<" and event.style is None:
            raise self.error(
                event, keys, "the merge key '<<'", "plain keys", "use 'base: other.yaml' to include a file"
            )
        return str(event.value)


def _duplicate(path: Keys, first: str, second: str) -> Problem:
    return Problem(".".join(path), second, what=f"key given twice, first at {first}", fix="remove one of the two lines")


def _height(node: Node) -> int:
    """Levels below a node; 0 for a scalar."""
    children = node.value.values() if isinstance(node.value, dict) else node.value
    return 1 + max(map(_height, children), default=0) if isinstance(node.value, (dict, list)) else 0


def _code(error: yaml.reader.ReaderError) -> int:
    return error.character if isinstance(error.character, int) else ord(error.character)


def _syntax_problem(error: yaml.MarkedYAMLError, text: str, origin: Callable[[int], str], key: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    lines = text.splitlines()
    for number in (line, line - 1, line + 1):
        if 0 < number <= len(lines) and "\t" in lines[number - 1][: -len(lines[number - 1].lstrip()) or None]:
            return Problem(key, origin(number), "a tab in the indentation", "spaces only", "replace tabs by spaces")
    got = lines[line - 1].strip() if 0 < line <= len(lines) else ""
    reason = " ".join(filter(None, (error.context, error.problem))).replace("\n", " ")
    return Problem(key, origin(line), f"{show(got)}, which is not valid YAML: {printable(reason)}")


def _read(path: FilePath, origin: str) -> bytes:
    """At most MAX_BYTES of a regular file; never waits, as opening a FIFO would."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            data = _read_regular(descriptor, path, origin)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise ConfigError([_unreadable(path, origin, error)]) from None
    if len(data) > MAX_BYTES:
        raise ConfigError([Problem("", origin, "a file of more than 1 MB", "a config of at most 1 MB")])
    return data


def _read_regular(descriptor: int, path: FilePath, origin: str) -> bytes:
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        raise ConfigError([_not_a_file(path, origin, mode)])
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        return file.read(MAX_BYTES + 1)


def _not_a_file(path: FilePath, origin: str, mode: int) -> Problem:
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe (FIFO)", stat.S_IFCHR: "a device"}
    got = kinds.get(stat.S_IFMT(mode), "no regular file")
    inside = _configs_in(path) if stat.S_ISDIR(mode) else []
    return Problem(
        "", origin, got, "a YAML file", f"there is {printable(', '.join(inside[:5]))} in it" if inside else ""
    )


def _unreadable(path: FilePath, origin: str, error: OSError | ValueError) -> Problem:
    if not isinstance(error, FileNotFoundError):
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return Problem("", origin, allowed="a readable YAML file", what=f"cannot be read: {reason}")
    close = nearest(path.name, _configs_in(path.parent))
    fix = f"did you mean '{printable(str(path.parent / close))}'?" if close else _meant_as_key(path)
    return Problem("", origin, what="no such file", fix=fix)


def _meant_as_key(path: FilePath) -> str:
    looks_like_one = re.fullmatch(r"[a-z]+(\.\w+)+", str(path)) and path.suffix not in (".yaml", ".yml", ".json")
    return f"to set a key, write {path}=VALUE" if looks_like_one else ""


def _configs_in(folder: FilePath) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith((".yaml", ".yml")))[:1000]  # noqa: PTH208
    except OSError:
        return []


def _decode(data: bytes, origin: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        got = f"the byte 0x{data[error.start]:02X}, which is not UTF-8"
        raise ConfigError([Problem("", f"{origin}:{line}", got, "UTF-8 text", "save the file as UTF-8")]) from None
