"""A search space: dotted keys of a config, what each may be, and when it is searched at all."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from itertools import islice, product
from typing import Any

from pydantic import ValidationError

from .errors import COMMAND_LINE, ConfigError, Problem, dotted, show
from .nearest import nearest, nearest_key
from .overrides import lay_over
from .registry import METHODS
from .schema import Config, TaskConfig
from .schema.tune import headline_objective
from .tree import STAGES, Node, at_dotted_key, find, from_plain, plain, with_value

Scalar = bool | int | float | str | None
Point = dict[str, Any]

SPACE, OBJECTIVES = ("tune", "space"), ("tune", "objectives")
_BELOW = ("default", "config", "the run's config")
RANGES = {"uniform": 2, "loguniform": 2, "quniform": 3, "int": 2, "logint": 2}
KINDS = ("choice", *RANGES)
EXAMPLE = "such as {loguniform: [1e-4, 1e-1]} or {choice: [16, 32]}"
_MOST_CHOICES = 10_000


@dataclass(frozen=True)
class Dimension:
    """One key to search. `keys` are those of the config that `name` stands for: `prune.ratio` may mean two stages."""

    name: str
    keys: tuple[str, ...]
    kind: str
    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    when: tuple[tuple[str, tuple[Any, ...]], ...] = ()

    @property
    def is_log(self) -> bool:
        return self.kind.startswith("log")

    @property
    def is_whole(self) -> bool:
        return self.kind in ("int", "logint")

    @property
    def size(self) -> int | None:
        """How many values there are; None for a range of real numbers."""
        if self.kind == "choice":
            return len(self.choices)
        if self.is_whole:
            return int(self.high - self.low) + 1
        return _steps(self.low, self.high, self.step) + 1 if self.step else None

    def values(self) -> Iterator[Any]:
        """Every value, in order; of a range of real numbers its ends."""
        if self.kind == "choice":
            yield from self.choices
        elif self.is_whole:
            yield from range(int(self.low), int(self.high) + 1)
        elif self.step:
            yield from (_after_steps(self.low, i, self.step) for i in range(self.size or 0))
        else:
            yield from (self.low, self.high)

    def extremes(self) -> Iterator[Any]:
        """The values that a check of the config has to see: every choice, both ends of a range."""
        if self.kind == "choice":
            yield from self.choices
        else:
            yield from (int(self.low), int(self.high)) if self.is_whole else (self.low, self.high)

    def holds(self, value: Any) -> bool:
        if self.kind == "choice":
            return any(_same(value, choice) for choice in self.choices)
        if not _is_number(value) or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / (self.step or 1)
        return abs(steps - round(steps)) < 1e-6 if self.step or self.is_whole else True

    def nearest(self, value: float) -> Any:
        """The value of a range that is nearest to this one."""
        inside = min(max(value, self.low), self.high)
        if self.step:
            return _after_steps(self.low, round((inside - self.low) / self.step), self.step)
        return round(inside) if self.is_whole else inside

    def active(self, point: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
        """Whether it is searched beside these values; `config` has those of keys that are not in the space."""
        known = {**config, **point}
        return all(any(_same(known.get(key), value) for value in values) for key, values in self.when)


@dataclass(frozen=True)
class Space:
    """Dimensions in an order in which each comes after those that its `when` names."""

    dimensions: tuple[Dimension, ...]

    def __len__(self) -> int:
        return len(self.dimensions)

    @cached_property
    def by_name(self) -> dict[str, Dimension]:
        return {dimension.name: dimension for dimension in self.dimensions}

    def changes(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """The point as keys of the config."""
        return {key: value for name, value in point.items() for key in self.by_name[name].keys}

    def apply(self, config: Config, point: Mapping[str, Any]) -> Config:
        """The config at a point, validated as a whole. Raises ConfigError."""
        from .validate import validate

        tree, problems = lay_over(from_plain(config, "config"), self._layer(point))
        return validate(tree, problems, space=False)

    def _layer(self, point: Mapping[str, Any]) -> Node:
        layer = Node({}, "search space", addressed=True)
        for key, value in self.changes(point).items():
            change = at_dotted_key(key.split("."), from_plain(value, "search space"))
            layer, _ = lay_over(layer, change, replace_tagged=False)
        return layer

    def lay_over(self, tree: Node, point: Mapping[str, Any]) -> tuple[Node, list[Problem]]:
        return lay_over(tree, self._layer(point))

    def default_point(self, config: Config) -> Point:
        """The config's own values, of those keys that the space has a place for."""
        flat = flat_values(from_plain(config, "config"))
        flat |= {**config.optimizer.dotted_settings(), **config.scheduler.dotted_settings()}
        point: Point = {}
        for dimension in self.dimensions:
            value = flat.get(dimension.keys[0])
            if dimension.active(point, flat) and dimension.holds(value):
                point[dimension.name] = value
        return point

    @property
    def grid_size(self) -> int | None:
        """Points of the full grid, conditions aside; None when a range of real numbers has no step."""
        sizes = [dimension.size for dimension in self.dimensions]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    def grid(self, config: Config) -> list[Point]:
        """Every point once, in the order of the space."""
        flat = flat_values(from_plain(config, "config"))
        points: list[Point] = [{}]
        for dimension in self.dimensions:
            points = [
                after
                for point in points
                for after in (
                    [{**point, dimension.name: value} for value in dimension.values()]
                    if dimension.active(point, flat)
                    else [point]
                )
            ]
        return points

    def corners(self, flat: Mapping[str, Any], most: int = 256) -> Iterator[Point]:
        """Points that together show every extreme of every dimension, and of pairs as far as `most` allows.

        Others stay at their first value. A condition that does not hold leaves its key out.
        """
        first = {dimension.name: next(dimension.extremes()) for dimension in self.dimensions}
        most = max(most, 1 + sum(1 for dimension in self.dimensions for _ in dimension.extremes()))
        seen: set[str] = set()
        for chosen in islice(self._chosen(), 50 * most):
            point: Point = {}
            for dimension in self.dimensions:
                if dimension.active({**flat, **point}, flat):
                    point[dimension.name] = chosen.get(dimension.name, first[dimension.name])
            key = json.dumps(point, sort_keys=True, default=str)
            if key not in seen:
                seen.add(key)
                yield point
            if len(seen) >= most:
                return

    def _chosen(self) -> Iterator[dict[str, Any]]:
        yield {}
        for dimension in self.dimensions:
            conditions = self._conditions(dimension)
            for value in dimension.extremes():
                yield {**conditions, dimension.name: value}
        for one, other in product(self.dimensions, repeat=2):
            if one.name < other.name:
                for value, second in product(one.extremes(), other.extremes()):
                    both = {**self._conditions(one), **self._conditions(other)}
                    yield {**both, one.name: value, other.name: second}

    def _conditions(self, dimension: Dimension) -> dict[str, Any]:
        """Values under which it is searched."""
        found: dict[str, Any] = {}
        for key, values in dimension.when:
            held = [value for value in values if key in self.by_name and self.by_name[key].holds(value)]
            if held:
                found |= self._conditions(self.by_name[key]) | {key: held[0]}
        return found

    def describe(self) -> list[tuple[str, str]]:
        """Name and distribution of each dimension, as text."""
        return [(dimension.name, describe(dimension)) for dimension in self.dimensions]


def describe(dimension: Dimension) -> str:
    """
    >>> describe(Dimension("optimizer.lr", ("optimizer.lr",), "loguniform", low=1e-4, high=0.1))
    'loguniform 0.0001 to 0.1'
    """
    if dimension.kind == "choice":
        text = f"choice {show(list(dimension.choices))}"
    else:
        low, high = (f"{value:g}" for value in (dimension.low, dimension.high))
        text = f"{dimension.kind} {low} to {high}" + (f" in steps of {dimension.step:g}" if dimension.step else "")
    when = " and ".join(f"{key} is {' or '.join(map(show, values))}" for key, values in dimension.when)
    return f"{text} when {when}" if when else text


def as_yaml(dimension: Dimension) -> str:
    """As it stands in a config, without its condition.

    >>> as_yaml(Dimension("optimizer.lr", ("optimizer.lr",), "loguniform", low=1e-4, high=0.1))
    'loguniform: [0.0001, 0.1]'
    """
    ends = (dimension.low, dimension.high, *([dimension.step] if dimension.step else []))
    values = [*dimension.choices] if dimension.kind == "choice" else [float(f"{end:g}") for end in ends]
    if dimension.is_whole:
        values = [int(value) for value in values]
    return f"{dimension.kind}: {show(values)}"


def flat_values(tree: Node) -> dict[str, Any]:
    """Dotted keys to plain values; entries of lists of sections under their numbers."""
    flat: dict[str, Any] = {}

    def walk(node: Node, path: tuple[str, ...]) -> None:
        if isinstance(node.value, dict) and node.value:
            for key, below in node.value.items():
                walk(below, (*path, key))
        else:
            flat[".".join(path)] = plain(node)
            if isinstance(node.value, list):
                for i, below in enumerate(node.value):
                    if isinstance(below.value, dict):
                        walk(below, (*path, str(i)))

    walk(tree, ())
    return flat


def space_of(config: Config) -> Space:
    """The space of a config. Raises ConfigError."""
    space, problems = read_space(from_plain(config, "tune.space"))
    if problems:
        raise ConfigError(problems)
    return space


def settled(tree: Node) -> Node:
    """The tree with its space under dotted names, each of them once: what the command line says wins.

    And with objectives that were given as a whole in place of those they lie on.
    """
    objectives = find(tree, OBJECTIVES)
    if objectives is not None and isinstance(objectives.value, dict):
        tree = with_value(tree, OBJECTIVES, _with_headline(_given_whole(objectives), tree))
    node = find(tree, SPACE)
    if node is None or not isinstance(node.value, dict):
        return tree
    leaves = sorted(_leaves(node, ()), key=lambda leaf: leaf[1].origin == COMMAND_LINE)
    return with_value(tree, SPACE, Node({name: _of_one_kind(below) for name, below in leaves}, node.origin))


def _with_headline(node: Node, tree: Node) -> Node:
    """The task's headline before objectives that were only added to what is searched by default."""
    task = find(tree, ("task",))
    if task is None or node.origin not in _BELOW or not node.value:
        return node
    if any(below.origin in _BELOW for below in node.value.values()):
        return node
    try:
        default = headline_objective(TaskConfig.model_validate(plain(task)))
    except ValidationError:  # which is told anyway
        return node
    return Node({**from_plain(default, node.origin).value, **node.value}, node.origin)


def _given_whole(node: Node) -> Node:
    """Without what comes from below the file or command line that gave it."""
    if node.origin in _BELOW:
        return node
    kept = {key: below for key, below in node.value.items() if _source(below) in (_source(node), COMMAND_LINE)}
    return Node(kept or node.value, node.origin)


def _source(node: Node) -> str:
    """The file, without the line."""
    return node.origin.rpartition(":")[0] or node.origin


def _of_one_kind(node: Node) -> Node:
    """A distribution laid over one of another kind replaces it; two of the same file stay, and are a problem."""
    kinds = [word for word in node.value if word != "when"] if isinstance(node.value, dict) else []
    sources = {word: _source(node.value[word]) for word in kinds}
    if len({*sources.values()}) < 2:
        return node
    last = COMMAND_LINE if COMMAND_LINE in sources.values() else sources[kinds[-1]]
    kept = {word: below for word, below in node.value.items() if sources.get(word, last) == last}
    return Node(kept, kept[next(word for word in kinds if word in kept)].origin)


def read_space(tree: Node) -> tuple[Space, list[Problem]]:
    """The space that a config's tree holds, and everything that is wrong with its form."""
    node = find(tree, SPACE)
    problems: list[Problem] = []
    found: dict[str, Dimension] = {}
    if node is not None and isinstance(node.value, dict):
        for name, below in _leaves(node, ()):
            dimension = _read_dimension(name, below, tree, problems)
            if dimension is not None:
                found[name] = dimension
    problems += _set_twice(list(found.values()), node)
    return Space(_in_order(found, problems, node)), problems


def _set_twice(dimensions: Sequence[Dimension], node: Node | None) -> Iterator[Problem]:
    """`prune.ratio` and `compress.stages.0.ratio` may be one key."""
    owners: dict[str, str] = {}
    for dimension in dimensions:
        for key in dimension.keys:
            other = owners.setdefault(key, dimension.name)
            if other != dimension.name and node is not None:
                what = f"{other} and {dimension.name} both set {key}"
                yield Problem(dotted((*SPACE, dimension.name)), node.origin, what=what, fix="leave one of them out")


def when_problems(space: Space, flat: Mapping[str, Any], origin_fn: Callable[[str], str]) -> Iterator[Problem]:
    """Conditions on what is no key, or on what a searched key never is. `flat`: the config's values."""
    for dimension in space.dimensions:
        where = dotted((*SPACE, dimension.name, "when"))
        for key, values in dimension.when:
            other = space.by_name.get(key)
            around = next((d.name for d in space.dimensions if other is None and _overlap(d, key)), None)
            if around is not None:
                what, fix = f"{key} is searched as {around}", f"write the condition on {around}"
                yield Problem(where, origin_fn(dimension.name), what=what, fix=fix)
            elif other is None and key not in flat:
                meant = nearest_key(key, [], [*space.by_name, *flat])
                fix = f"did you mean '{meant}'?" if meant else "give the dotted key of the config or of the space"
                yield Problem(where, origin_fn(dimension.name), what=f"unknown key {show(key)}", fix=fix)
            elif other is not None and not any(map(other.holds, values)):
                got = show(list(values) if len(values) > 1 else values[0])
                yield Problem(
                    where, origin_fn(dimension.name), f"{key}: {got}", f"what {key} may be: {describe(other)}"
                )


def _overlap(dimension: Dimension, key: str) -> bool:
    return any(key == own or key.startswith(f"{own}.") for own in dimension.keys)


def _leaves(node: Node, path: tuple[str, ...]) -> Iterator[tuple[str, Node]]:
    """Dotted names and their distributions; `a: {b: {…}}` is `a.b: {…}`."""
    for key, below in node.value.items():
        here = (*path, str(key))
        nested = isinstance(below.value, dict) and below.value and not any(map(_is_kind, below.value))
        if nested:
            yield from _leaves(below, here)
        else:
            yield ".".join(here), below


def _is_kind(word: str) -> bool:
    """Whether a distribution was meant, perhaps misspelt."""
    return word == "when" or nearest(word, KINDS) is not None


def _read_dimension(name: str, node: Node, tree: Node, problems: list[Problem]) -> Dimension | None:
    where = dotted((*SPACE, name))

    def wrong(got: Any, allowed: str, fix: str = "") -> None:
        problems.append(Problem(where, node.origin, show(got), allowed, fix))

    value = node.value
    if not all(name.split(".")):
        wrong(name, "a dotted key such as optimizer.lr")
        return None
    if name.partition(".")[0] in ("run", "tune") and name != "run.seed":
        what = f"{name} cannot be searched"
        fix = "it names a trial's folder or steers the search itself; of these sections only run.seed can be searched"
        problems.append(Problem(where, node.origin, what=what, fix=fix))
        return None
    if isinstance(value, list):
        node = Node({"choice": node}, node.origin)
        value = node.value
    if not isinstance(value, dict) or not value:
        wrong(plain(node), f"a distribution {EXAMPLE}")
        return None
    head = name.partition(".")[0]
    if head in METHODS and _full_keys(name, tree) == (name,):
        what = f"no stage of compress.stages is a {head}"
        problems.append(
            Problem(where, node.origin, what=what, fix=f"{name} means those of the recipe: --method {head}")
        )
        return None
    kinds = [word for word in value if word != "when"]
    if len(kinds) != 1 or kinds[0] not in KINDS:
        close = nearest(str(kinds[0]), KINDS) if kinds else None
        hint = f"did you mean '{close}'?" if close and len(kinds) == 1 else EXAMPLE
        wrong(plain(node), f"one of {', '.join(KINDS)}", hint)
        return None
    kind, content = kinds[0], value[kinds[0]]
    when = _read_when(value.get("when"), wrong)
    keys = _full_keys(name, tree)
    given = plain(content)
    if when is None:
        return None
    if kind == "choice":
        if not isinstance(given, list) or not given:
            wrong(given, "a list of at least one value", "an empty choice has nothing to try")
            return None
        if len(given) > _MOST_CHOICES:
            problems.append(Problem(where, node.origin, f"{len(given)} values", f"at most {_MOST_CHOICES} values"))
            return None
        if len({_identity(item) for item in given}) < len(given):
            wrong(given, "every value once")
            return None
        return Dimension(name, keys, kind, choices=tuple(given), when=when)
    return _read_range(name, keys, kind, given, when, wrong)


def _read_range(
    name: str, keys: tuple[str, ...], kind: str, given: Any, when: tuple[tuple[str, tuple[Any, ...]], ...], wrong: Any
) -> Dimension | None:
    form = "[low, high, step]" if kind == "quniform" else "[low, high]"
    if not isinstance(given, list) or len(given) != RANGES[kind] or not all(map(_is_number, given)):
        wrong(given, f"{kind}: {form}, numbers")
        return None
    low, high, step = given[0], given[1], given[2] if kind == "quniform" else None
    if kind in ("int", "logint") and not all(float(bound).is_integer() for bound in given):
        wrong(given, f"{kind}: {form}, whole numbers", "use uniform or loguniform for others")
    elif low >= high:
        wrong(given, "a low end below the high end", f"for one value alone leave it out of the space and set {name}")
    elif kind.startswith("log") and low <= 0:
        wrong(given, "a low end greater than 0", "a logarithm of 0 has no end: begin above, such as 1e-6")
    elif step is not None and (step <= 0 or step > high - low):
        wrong(given, "a step greater than 0 that fits into the range")
    else:
        whole = kind in ("int", "logint")
        bounds = (int(low), int(high)) if whole else (float(low), float(high))
        if step is not None:  # the last value that the steps reach
            bounds = (bounds[0], _after_steps(bounds[0], _steps(bounds[0], bounds[1], step), step))
        return Dimension(name, keys, kind, low=bounds[0], high=bounds[1], step=step, when=when)
    return None


def _steps(low: float, high: float, step: float) -> int:
    """How many whole steps fit, in decimals: 0.3 is three times 0.1."""
    return int((Decimal(str(high)) - Decimal(str(low))) / Decimal(str(step)))


def _after_steps(low: float, count: int, step: float) -> float:
    return float(Decimal(str(low)) + count * Decimal(str(step)))


def _read_when(node: Node | None, wrong: Any) -> tuple[tuple[str, tuple[Any, ...]], ...] | None:
    if node is None:
        return ()
    if not isinstance(node.value, dict) or not node.value:
        wrong(plain(node), "when: {other.key: value} or {other.key: [value, value]}")
        return None
    conditions = []
    for key, below in _conditions(node, ()):
        value = plain(below)
        conditions.append((key, tuple(value) if isinstance(value, list) else (value,)))
    if any(not values for _, values in conditions):
        wrong(plain(node), "at least one value for each key of `when`")
        return None
    return tuple(conditions)


def _conditions(node: Node, path: tuple[str, ...]) -> Iterator[tuple[str, Node]]:
    for key, below in node.value.items():
        if isinstance(below.value, dict) and below.value:
            yield from _conditions(below, (*path, key))
        else:
            yield ".".join((*path, key)), below


def _full_keys(name: str, tree: Node) -> tuple[str, ...]:
    """`prune.ratio` stands for that key of every prune stage; all else is a key itself."""
    head, _, rest = name.partition(".")
    stages = find(tree, STAGES)
    entries = stages.value if stages is not None and isinstance(stages.value, list) else []
    methods = [found.value if (found := find(entry, ("method",))) else None for entry in entries]
    if not rest or head not in methods:
        return (name,)
    return tuple(f"{'.'.join(STAGES)}.{i}.{rest}" for i, method in enumerate(methods) if method == head)


def _in_order(found: dict[str, Dimension], problems: list[Problem], node: Node | None) -> tuple[Dimension, ...]:
    """Dimensions after those that they depend on; a circle is a problem."""
    ordered: dict[str, Dimension] = {}
    left = dict(found)
    while left:
        ready = [name for name, dimension in left.items() if not any(key in left for key, _ in dimension.when)]
        if not ready:
            origin = node.origin if node else "tune.space"
            what = "these keys wait for each other in their `when`: " + ", ".join(left)
            problems.append(Problem(dotted(SPACE), origin, what=what))
            break
        for name in ready:
            ordered[name] = left.pop(name)
    return tuple(ordered.values())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _identity(value: Any) -> tuple[bool, Any]:
    """Equal for values that are the same."""
    scalar = isinstance(value, bool | int | float | str | None)
    return isinstance(value, bool), value if scalar else json.dumps(value, sort_keys=True, default=str)


def _same(one: Any, other: Any) -> bool:
    """Equal, and true is not 1."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def shorten(name: str, names: Sequence[str]) -> str:
    """The last part of a name, where that says which one is meant.

    >>> shorten("optimizer.lr", ["optimizer.lr", "model.width"])
    'lr'
    """
    last = name.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in names) == 1 else name
