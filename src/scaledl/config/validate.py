"""A tree of nodes to a Config, or to everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from .errors import ConfigError, Problem
from .explain import explain, locate
from .schema import DEFAULT_FAMILY, Config, ModelConfig
from .tree import MODEL, STAGES, Node, Path, find, plain, with_value

CONFLICTS = ("conflicts", "stage_order")


def validate(tree: Node, problems: Sequence[Problem] = (), *, students: bool = True) -> Config:
    """The config that a tree describes. Raises ConfigError with `problems` and all of its own.

    `students=False` leaves the students of distillations unchecked, for a recipe that does not know its model yet.
    """
    config, tree, errors = _attempt(tree)
    found = [*_explained(errors, tree), *_hidden_conflicts(errors, tree)]
    if students:
        found += _student_problems(tree)
    if problems or found:
        raise ConfigError([*problems, *_unique(found)])
    assert config is not None
    return config


def _attempt(tree: Node) -> tuple[Config | None, Node, list[ErrorDetails]]:
    """Validates, once more with numbers taken as text where text is wanted (`run.id=4711`)."""
    config, errors = _check(tree)
    wanted = [path for path in map(_text_wanted, errors) if (node := find(tree, path)) and _is_number(node)]
    if wanted:
        for path in wanted:
            node = find(tree, path)
            assert node is not None
            tree = with_value(tree, path, Node(node.text, node.origin))
        config, errors = _check(tree)
    return config, tree, errors


def _check(tree: Node) -> tuple[Config | None, list[ErrorDetails]]:
    try:
        return Config.model_validate(plain(tree)), []
    except ValidationError as error:
        return None, error.errors(include_url=False)


def _text_wanted(error: ErrorDetails) -> Path:
    return locate(error["loc"])[0] if error["type"] == "string_type" else ()


def _is_number(node: Node) -> bool:
    return node.text is not None and isinstance(node.value, int | float) and not isinstance(node.value, bool)


def _explained(errors: list[ErrorDetails], tree: Node) -> Iterator[Problem]:
    for error in errors:
        yield from explain(error, tree)


def _hidden_conflicts(errors: list[ErrorDetails], tree: Node) -> list[Problem]:
    """Conflicts between the keys that are right: pydantic looks for them only when every key is.

    So the wrong keys are taken away and the rest is checked again; an order of stages counts as wrong then.
    """
    found: list[Problem] = []
    wrong: set[str] = set()
    for _ in range(2):
        paths = {locate(error["loc"])[0] for error in errors if error["type"] != "conflicts"}
        if not paths:
            break
        wrong |= {".".join(map(str, path)) for path in paths}
        tree = _without(tree, paths)
        errors = _conflicts_beside(_check(tree)[1], wrong)
        found += _explained(errors, tree)
    return found


def _conflicts_beside(errors: list[ErrorDetails], wrong: set[str]) -> list[ErrorDetails]:
    """The conflicts among the errors in which no wrong key takes part."""
    kept = []
    for error in errors:
        if error["type"] == "stage_order":
            kept.append(error)
        elif error["type"] == "conflicts":
            fair = [
                c for c in error["ctx"]["conflicts"] if not _touched(c.key, wrong) and not _touched(c.against, wrong)
            ]
            kept.append(error | {"ctx": {"conflicts": fair}})
    return kept


def _touched(key: str, wrong: set[str]) -> bool:
    return any(key == other or key.startswith(f"{other}.") for other in wrong)


def _without(tree: Node, paths: set[Path]) -> Node:
    """The tree without these keys; of a list's entry, without the innermost key around it."""
    for path in paths:
        for length in range(len(path), 0, -1):
            parent = find(tree, path[: length - 1])
            if parent is not None and isinstance(parent.value, dict) and path[length - 1] in parent.value:
                tree = with_value(tree, path[:length], None)
                break
    return tree


def _student_problems(tree: Node) -> Iterator[Problem]:
    """A student's keys are those of a model section, of the run's family unless it names its own."""
    stages = find(tree, STAGES)
    family = find(tree, (*MODEL, "family"))
    default = family.value if family else DEFAULT_FAMILY
    for i in range(len(stages.value)) if stages and isinstance(stages.value, list) else ():
        student = find(tree, (*STAGES, i, "student"))
        method = find(tree, (*STAGES, i, "method"))
        if student and isinstance(student.value, dict) and method and method.value == "distill":
            yield from _model_problems({"family": default} | plain(student), tree, (*STAGES, i, "student"))


def _model_problems(data: dict[str, Any], tree: Node, at: Path) -> Iterator[Problem]:
    try:
        TypeAdapter(ModelConfig).validate_python(data)
    except ValidationError as found:
        for error in found.errors(include_url=False):
            yield from explain(error, tree, at, family=str(data["family"]))


def _unique(problems: Sequence[Problem]) -> list[Problem]:
    """One problem a key: a value that may be of two types fails twice."""
    by_key: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        by_key.setdefault((problem.key, problem.origin), problem)
    return list(by_key.values())
