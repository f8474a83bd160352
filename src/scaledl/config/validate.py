"""A tree of nodes to a Config, or to everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace as with_fields
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from .errors import ConfigError, Problem, show
from .explain import explain, locate
from .overrides import lay_over
from .schema import DEFAULT_FAMILY, FOLDER_PATTERN, Config, ModelConfig
from .space import (
    EXAMPLE,
    KINDS,
    SPACE,
    Dimension,
    Point,
    Space,
    as_yaml,
    flat_values,
    read_space,
    settled,
    when_problems,
)
from .tree import MODEL, STAGES, Node, Path, at_dotted_key, find, from_plain, origin_of, plain, with_value

CONFLICTS = ("conflicts", "stage_order")


def validate(tree: Node, problems: Sequence[Problem] = (), *, students: bool = True, space: bool = True) -> Config:
    """The config that a tree describes. Raises ConfigError with `problems` and all of its own.

    `students=False` leaves the students of distillations unchecked, for a recipe that does not know its model yet;
    `space=False` the search space, for a point of it.
    """
    tree = settled(_with_folder(tree))
    config, tree, errors = _attempt(tree)
    found = [*_explained(errors, tree), *_hidden_conflicts(errors, tree)]
    if students:
        found += _student_problems(tree)
    if space and not found and not problems:
        found += _space_problems(tree)
    if problems or found:
        raise ConfigError([*problems, *_unique(found)])
    assert config is not None
    return config


def _with_folder(tree: Node) -> Node:
    """`data.source: FOLDER/` is short for the source `prepared` with `data.root: FOLDER/`."""
    node = find(tree, ("data", "source"))
    if node is None or not isinstance(node.value, str) or FOLDER_PATTERN not in node.value:
        return tree
    tree = with_value(tree, ("data", "root"), Node(node.value, node.origin))
    return with_value(tree, ("data", "source"), Node("prepared", node.origin))


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
    return any(key == other or key.startswith(f"{other}.") or other.startswith(f"{key}.") for other in wrong)


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


def _space_problems(tree: Node) -> list[Problem]:
    """What is wrong with the form of a search space, or else with the configs at its corners: a problem a key."""
    space, problems = read_space(tree)
    if problems or not space.dimensions:
        return problems
    flat = flat_values(from_plain(_check(tree)[0], "config"))
    found = {problem.key: problem for problem in when_problems(space, flat, lambda name: _space_origin(tree, name))}
    bare = with_value(tree, SPACE, Node({}, "default"))
    found |= {problem.key: problem for problem in _condition_problems(bare, space, flat, tree)}
    for point in space.corners(flat):
        for problem in _point_problems(bare, space, point):
            named = _of_space(problem, space, point, tree)
            found.setdefault(named.key, named)
    return list(found.values())


def _condition_problems(bare: Node, space: Space, flat: dict[str, Any], tree: Node) -> Iterator[Problem]:
    """Conditions on values that a key outside the space cannot have: a misspelt name."""
    for dimension in space.dimensions:
        for key, values in dimension.when:
            for value in values if key in flat and key not in space.by_name else ():
                there, _ = lay_over(bare, at_dotted_key(key.split("."), from_plain(value, "search space")))
                for problem in _explained(_check(there)[1], there):
                    if problem.key == key:
                        where = f"tune.space.{dimension.name}.when"
                        origin = _space_origin(tree, dimension.name)
                        yield with_fields(problem, key=where, origin=origin, got=f"{key}: {problem.got}")


def _point_problems(tree: Node, space: Space, point: Point) -> Iterator[Problem]:
    there, missing = space.lay_over(tree, point)
    _, there, errors = _attempt(there)
    yield from (*missing, *_explained(errors, there), *_student_problems(there))


def _of_space(problem: Problem, space: Space, point: Point, tree: Node) -> Problem:
    """A problem at a point, told of the key of the space that makes it."""
    name = next((name for name in point if _names(space.by_name[name].keys, problem.key)), None)
    if name is None:  # a key outside the space, which this point makes wrong
        at = ", ".join(f"{name}={show(value)}" for name, value in point.items())
        return with_fields(problem, origin=f"with tune.space at {at}")
    dimension, origin = space.by_name[name], _space_origin(tree, name)
    above, _, last = name.rpartition(".")
    if (
        problem.got.startswith("{")
        and not last.isdigit()
        and problem.key in {key.rpartition(".")[0] for key in dimension.keys}
    ):
        got = show({last: list(dimension.choices)})  # an unknown distribution looks like a key and its choices
        return Problem(f"tune.space.{above}", origin, got, f"one of {', '.join(KINDS)}", EXAMPLE)
    fix, kind = problem.fix, dimension.kind
    if "it is a key of" in fix:
        fix += f"; {_there_only(dimension, 'model.family', space, fix)}"
    elif "it is a key of" in problem.allowed:
        fix = _there_only(dimension, problem.against, space, problem.allowed)
    if kind in ("uniform", "loguniform", "quniform") and "a whole number" in problem.allowed:
        fix = f"use {'logint' if kind == 'loguniform' else 'int'}, or choice"
    return with_fields(problem, key=f"tune.space.{name}", origin=origin, fix=fix)


def _there_only(dimension: Dimension, other: str, space: Space, said: str) -> str:
    """A condition to copy: the dimension with those values of the key `other` that `said` names as having it."""
    having = {word.strip("',;.") for word in said.partition("it is a key of")[2].split()}
    searched = space.by_name[other].choices if other in space.by_name else ()
    values = [value for value in searched if value in having]
    names = ", ".join(map(str, values))
    when = f"{other}: {f'[{names}]' if len(values) > 1 else names or '…'}"
    return f"search it there only: {dimension.name}: {{{as_yaml(dimension)}, when: {{{when}}}}}"


def _names(keys: tuple[str, ...], problem: str) -> bool:
    """Whether a problem is that of one of these keys, of something in it, or of a section of its name."""
    return any(problem == key or problem.startswith(f"{key}.") or key.startswith(f"{problem}.") for key in keys)


def _space_origin(tree: Node, name: str) -> str:
    return origin_of(tree, (*SPACE, name))


def _unique(problems: Sequence[Problem]) -> list[Problem]:
    """One problem a key: a value that may be of two types fails twice."""
    by_key: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        by_key.setdefault((problem.key, problem.origin), problem)
    return list(by_key.values())
