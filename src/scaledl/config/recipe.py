"""Which stages a compression has, and their settings: from names, a recipe file, a config, and overrides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace as with_fields
from pathlib import Path

from .errors import COMMAND_LINE, ConfigError, Problem, dotted, show
from .files import read_config_file
from .imported import imports_of
from .nearest import nearest
from .overrides import lay_over, parse_override
from .registry import METHODS
from .schema import CompressConfig, Config
from .schema.sequence import RECURRENT
from .tree import STAGES, Node, at_dotted_key, find, from_plain, merge
from .validate import validate

_METHODS = f"one or more of {', '.join(METHODS.names())}"
EXAMPLE = "a list of stages such as 'stages: [{method: prune, ratio: 0.5}]'"


def parse_recipe(
    methods: Sequence[str] | None, recipe: str | Path | None, overrides: Sequence[str], default: CompressConfig
) -> tuple[CompressConfig, list[str]]:
    """The chain to run, and the overrides that are not about its stages.

    The stages are those named by `methods`, else those of the `recipe` file, else those of `default`. A method that
    is only named takes its settings from the first stage of that method in the recipe (or `default`), else the
    method's own. `prune.ratio=0.5` changes every stage of a method, `stages.1.ratio=0.5` one stage.
    Raises ConfigError with every problem.
    """
    tree, problems = _read_recipe(recipe) if recipe is not None else (from_plain({"compress": default}, "config"), [])
    if methods is not None:
        tree, unknown = _named_stages(methods, tree)
        problems += unknown
    ours, rest = _split(overrides)
    changes, typed, wrong = _stage_changes(ours, tree)
    tree, missing = lay_over(tree, changes)
    problems += [*wrong, *missing]
    if not problems and not _stage_nodes(tree):
        problems.append(Problem("", COMMAND_LINE, "no stage", f"--method with {_METHODS}, or --recipe FILE"))
    return _validated(tree, problems, typed).compress, rest


def usual_recipe(config: Config) -> list[str]:
    """What to say to `scaledl compress` for a run of this config: its own recipe, else stages that its family can have.

    >>> usual_recipe(Config())
    ['--method', 'distill,prune,qat']
    """
    trust = ["--trust"] if imports_of(config) else []
    if config.compress.stages:
        return trust
    distill = [] if config.model.family == "external" else ["distill"]  # it has no default student
    return ["--method", ",".join([*distill, "prune", "ptq" if config.model.family in RECURRENT else "qat"]), *trust]


def _validated(tree: Node, problems: list[Problem], typed: dict[str, str]) -> Config:
    """Validates the stages; a problem with an override is shown under the key as it was typed."""
    try:
        return validate(tree, problems, students=False)
    except ConfigError as error:
        raise ConfigError(list(dict.fromkeys(_as_typed(problem, typed) for problem in error.problems))) from None


def _as_typed(problem: Problem, typed: dict[str, str]) -> Problem:
    """`prune.ratoi` instead of `compress.stages.1.ratoi`, in the hint as well."""
    key = typed.get(problem.key)
    if key is None or problem.origin != COMMAND_LINE:
        return problem
    last = key.rpartition(".")[2]
    fix = problem.fix.replace(problem.key.removesuffix(last), key.removesuffix(last))
    return with_fields(problem, key=key, fix=fix)


def _stage_nodes(tree: Node) -> list[Node]:
    found = find(tree, STAGES)
    return found.value if found is not None and isinstance(found.value, list) else []


def _method_of(stage: Node) -> str:
    found = find(stage, ("method",))
    return str(found.value) if found else ""


def _read_recipe(path: str | Path) -> tuple[Node, list[Problem]]:
    """The file's tree as a config: a recipe has `stages` at the top, a config has them in its `compress` section."""
    tree, problems = read_config_file(path)
    if "stages" in tree.value:
        tree = Node({"compress": tree}, tree.origin)
    if find(tree, STAGES) is None:
        raise ConfigError([*problems, Problem("stages", tree.origin, "no stages", EXAMPLE)])
    return merge(from_plain(Config(), "default"), tree), problems


def _named_stages(methods: Sequence[str], settings: Node) -> tuple[Node, list[Problem]]:
    """A stage for every name, with the settings of the first stage of that method."""
    names = [name.strip() for entry in methods for name in entry.split(",")]
    known = {_method_of(stage): stage for stage in reversed(_stage_nodes(settings))}
    problems = [_unknown_method(name) for name in names if name not in METHODS]
    stages = [known.get(name) or from_plain({"method": name}, COMMAND_LINE) for name in names if name in METHODS]
    tree = at_dotted_key(STAGES, Node(stages, COMMAND_LINE))
    return tree, problems


def _unknown_method(name: str) -> Problem:
    close = nearest(name, METHODS.names())
    fix = f"did you mean '{close}'?" if close else ""
    return Problem("--method", COMMAND_LINE, show(name), _METHODS, fix)


def _split(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The overrides about stages, and the others."""
    ours = [text for text in overrides if _is_ours(text.partition("=")[0].strip())]
    return ours, [text for text in overrides if text not in ours]


def _is_ours(key: str) -> bool:
    return key.partition(".")[0] in METHODS or re.match(r"(compress\.)?stages(\.|$)", key) is not None


def _stage_changes(overrides: list[str], tree: Node) -> tuple[Node, dict[str, str], list[Problem]]:
    """One tree of all overrides about stages, the typed key of each full key, and the problems."""
    changes = Node({}, COMMAND_LINE, addressed=True)
    typed: dict[str, str] = {}
    problems: list[Problem] = []
    for text in overrides:
        try:
            key, value = parse_override(text)
            full_keys = _full_keys(key, tree)
        except ConfigError as error:
            problems += error.problems
            continue
        for full in full_keys:
            typed[full] = key
            changes, missing = lay_over(changes, at_dotted_key(full.split("."), value), replace_tagged=False)
            problems += missing
    return changes, typed, problems


def _full_keys(key: str, tree: Node) -> list[str]:
    """`prune.ratio` or `stages.1.ratio` as keys of a config. Raises ConfigError when no stage has the method."""
    head, _, rest = key.partition(".")
    if head in ("stages", "compress"):
        return [key if head == "compress" else f"compress.{key}"]
    chain = [_method_of(stage) for stage in _stage_nodes(tree)]
    if head not in chain:
        allowed = f"keys of {', '.join(dict.fromkeys(chain))}" if chain else ""
        problem = Problem(
            dotted(key.split(".")), COMMAND_LINE, "", allowed, what=f"there is no {head} stage in this chain"
        )
        raise ConfigError([problem])
    if not rest:
        raise ConfigError([Problem(key, COMMAND_LINE, show(key), f"a key of the stage, such as {head}.epochs=1")])
    return [f"{'.'.join(STAGES)}.{i}.{rest}" for i, method in enumerate(chain) if method == head]
