"""No settings twice: a trial of the same settings and seed would only tell again what is known."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from optuna.samplers import BaseSampler

from scaledl.config import Dimension, Point, Space
from scaledl.tune.sampling import from_label, to_label

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

_MOST_VALUES = 10_000
_PROPOSALS = 10


class Tried:
    """Points of a space that had a trial. `flat`: the config's values."""

    def __init__(self, space: Space, flat: Mapping[str, Any]) -> None:
        self._space, self._flat = space, flat
        self._known: set[str] = set()

    def add(self, point: Point) -> None:
        self._known.add(_key(point))

    def completion(self, part: Mapping[str, Any], rng: random.Random) -> Point | None:
        """A point that had no trial and agrees with `part`; None if there is none."""
        return self._complete(0, {}, part, rng)

    def _complete(self, i: int, point: Point, part: Mapping[str, Any], rng: random.Random) -> Point | None:
        """At most one point more is looked at than had a trial."""
        if i == len(self._space):
            return None if _key(point) in self._known else point
        dimension = self._space.dimensions[i]
        if not dimension.active(point, self._flat):
            return self._complete(i + 1, point, part, rng)
        fixed = dimension.name in part
        for value in [part[dimension.name]] if fixed else _values(dimension, rng):
            found = self._complete(i + 1, {**point, dimension.name: value}, part, rng)
            if found is not None:
                return found
        return None


def _values(dimension: Dimension, rng: random.Random) -> Iterator[Any]:
    """All values in any order; of a wide range some, more than a search has trials there."""
    if dimension.kind != "choice" and (dimension.size is None or dimension.size > _MOST_VALUES):
        return (dimension.nearest(rng.uniform(dimension.low, dimension.high)) for _ in range(_MOST_VALUES))
    values = list(dimension.values())
    rng.shuffle(values)
    return iter(values)


def _key(point: Point) -> str:
    return json.dumps(point, sort_keys=True)


class UntriedSampler(BaseSampler):
    """Asks another sampler again when what it proposes had a trial, and at last takes what is left."""

    def __init__(self, inner: BaseSampler, space: Space, tried: Tried, seed: int) -> None:
        self._inner, self._space, self._tried = inner, space, tried
        self._rng = random.Random(seed)  # noqa: S311 - nothing secret
        self._together: dict[str, Any] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return self._inner.sample_relative(study, trial, search_space)
        self._together = self._untried(
            lambda: self._inner.sample_relative(study, trial, search_space), trial.params, set(search_space)
        )
        return self._together

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        def propose() -> dict[str, Any]:
            return {param_name: self._inner.sample_independent(study, trial, param_name, param_distribution)}

        return self._untried(propose, {**self._together, **trial.params}, {param_name})[param_name]

    def _untried(
        self, propose: Callable[[], dict[str, Any]], known: Mapping[str, Any], names: set[str]
    ) -> dict[str, Any]:
        proposal: dict[str, Any] = {}
        for _ in range(_PROPOSALS):
            proposal = propose()
            if self._tried.completion(self._values({**known, **proposal}), self._rng) is not None:
                return proposal
        left = self._tried.completion(self._values(known), self._rng) or {}
        by_name = self._space.by_name
        return {**proposal, **{name: to_label(by_name[name], left[name]) for name in names & set(left)}}

    def _values(self, stored: Mapping[str, Any]) -> Point:
        return {name: from_label(self._space.by_name[name], label) for name, label in stored.items()}

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._inner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: Any, values: Any) -> None:
        self._inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self._inner.reseed_rng()
