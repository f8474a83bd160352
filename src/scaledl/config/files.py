"""Config files and what they include: `base: other.yaml`, or a list of files of which later ones win."""

from __future__ import annotations

import os
from functools import reduce
from pathlib import Path as FilePath

from .errors import ConfigError, Problem, printable, show
from .tree import Node, merge, plain
from .yaml_source import read_yaml

MAX_INCLUDE_DEPTH = 10
MAX_FILES = 100


def read_config_file(path: str | FilePath) -> tuple[Node, list[Problem]]:
    """The tree of a file laid over its bases, and the problems that leave it readable.

    Raises ConfigError with all problems when a file of them cannot be read.
    """
    reader = _Reader()
    tree = reader.read(FilePath(path), ())
    if reader.failed or tree is None:
        raise ConfigError(reader.problems)
    return tree, reader.problems


class _Reader:
    """Reads a file and its bases; keeps the problems of all of them."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.failed = False
        self.count = 0

    def read(self, path: FilePath, including: tuple[str, ...], asked: Node | None = None) -> Node | None:
        """The merged tree, or None after noting why not. `asked` is the `base` entry that names the file."""
        origin = printable(os.path.normpath(path))
        real = os.path.realpath(path) if "\0" not in str(path) else str(path)
        self.count += 1
        loop = self._include_problem(origin, real, including, asked)
        if loop:
            self._fail([loop])
            return None
        try:
            tree, problems = read_yaml(path, origin)
        except ConfigError as error:
            self._fail([_from_base(problem, asked) for problem in error.problems])
            return None
        self.problems += problems
        if tree is None or not isinstance(tree.value, dict):
            self._fail([_no_mapping(tree, origin)])
            return None
        return self._over_bases(tree, path, (*including, real))

    def _fail(self, problems: list[Problem]) -> None:
        self.problems += problems
        self.failed = True

    def _include_problem(
        self, origin: str, real: str, including: tuple[str, ...], asked: Node | None
    ) -> Problem | None:
        place = asked.origin if asked else origin
        if real in including:
            circle = " -> ".join(printable(os.path.basename(file)) for file in (*including, real))  # noqa: PTH119
            return Problem("base", place, f"a circle: {circle}", "files that do not include themselves")
        if len(including) > MAX_INCLUDE_DEPTH or self.count > MAX_FILES:
            allowed = f"at most {MAX_INCLUDE_DEPTH} levels and {MAX_FILES} files"
            return Problem("base", place, "too many included files", allowed)
        return None

    def _over_bases(self, tree: Node, path: FilePath, including: tuple[str, ...]) -> Node:
        own = Node({key: node for key, node in tree.value.items() if key != "base"}, tree.origin)
        if "base" not in tree.value:
            return own
        layers = [self.read(path.parent / name, including, entry) for name, entry in self._bases(tree.value["base"])]
        return reduce(merge, [layer for layer in [*layers, own] if layer is not None])

    def _bases(self, base: Node) -> list[tuple[str, Node]]:
        entries = base.value if isinstance(base.value, list) else [base]
        names = [(entry.value, entry) for entry in entries]
        for name, entry in names:
            if not isinstance(name, str) or not name:
                self._fail([Problem("base", entry.origin, show(plain(entry)), "a file or a list of files")])
        return [(name, entry) for name, entry in names if isinstance(name, str) and name]


def _from_base(problem: Problem, asked: Node | None) -> Problem:
    """A file that is not there is a problem of the line that asked for it."""
    if asked is None or not problem.what:
        return problem
    return Problem("base", asked.origin, "", problem.allowed, problem.fix, f"{problem.origin}: {problem.what}")


def _no_mapping(tree: Node | None, origin: str) -> Problem:
    allowed = "sections such as 'model:' and 'trainer:' with keys below them"
    if tree is None or tree.value is None:
        return Problem("", origin, "an empty file", allowed)
    kind = "a list" if isinstance(tree.value, list) else "a single value"
    return Problem("", tree.origin, f"{kind} at the top", allowed)
