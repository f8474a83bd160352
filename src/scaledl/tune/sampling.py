"""Names of a config to what Optuna calls samplers and pruners, and a space's dimensions to its distributions."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace as with_fields
from typing import TYPE_CHECKING, Any

from scaledl.config import Config, Dimension, Point, Space, TuneConfig
from scaledl.config.errors import show
from scaledl.config.space import flat_values
from scaledl.config.tree import from_plain
from scaledl.errors import UsageError, require_extra

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import Trial

STARTUP_TRIALS = 10
GRID_ASKS_FROM = 1000


def method_of(tune: TuneConfig) -> str:
    """How settings are chosen, `auto` decided."""
    if tune.search != "auto":
        return tune.search
    return "nsga2" if len(tune.objectives) > 1 else "tpe"


def rule_of(tune: TuneConfig) -> str:
    """Which trials are stopped early, `auto` decided."""
    if tune.scheduler != "auto":
        return tune.scheduler
    return "none" if len(tune.objectives) > 1 or tune.verb == "compress" or tune.search == "grid" else "asha"


def check_search(config: Config, space: Space, *, confirmed: bool) -> int:
    """What cannot be searched in this way, before anything starts; returns the number of trials.

    Raises UsageError.
    """
    tune = config.tune
    if not space.dimensions:
        raise UsageError("tune.space: empty; name what to search: tune.space.optimizer.lr='{loguniform: [1e-4, 1e-1]}'")
    if len(tune.objectives) > 1 and rule_of(tune) != "none":
        raise UsageError(
            f"tune.scheduler: got {tune.scheduler!r} with {len(tune.objectives)} objectives; allowed: none "
            "(which trial is behind is not defined for a front), or one objective"
        )
    if len(tune.objectives) > 1 and method_of(tune) == "cmaes":
        raise UsageError("tune.search: got 'cmaes' with several objectives; allowed: nsga2, tpe, gp, qmc, random, grid")
    _check_conditions(config, space)
    _check_keys(tune, space)
    first = next(iter(config.objectives))
    if rule_of(tune) != "none" and (not first.startswith("val_") or tune.verb == "compress"):
        raise UsageError(
            f"tune.scheduler: got {tune.scheduler!r} with the objective {first} of a {tune.verb}; allowed: none "
            "(it is known at the end only)"
        )
    if rule_of(tune) == "pbt":
        _check_population(tune, space)
    if method_of(tune) == "cmaes" and all(dimension.kind == "choice" for dimension in space.dimensions):
        raise UsageError("tune.search: got 'cmaes', which needs numbers; this space has choices only; allowed: tpe, gp")
    return _grid_trials(config, space, confirmed) if method_of(tune) == "grid" else tune.trials


def _check_conditions(config: Config, space: Space) -> None:
    """A key whose condition hangs on a key that has another value, and is not searched, would be left out."""
    flat = flat_values(from_plain(config, "config"))
    for dimension in space.dimensions:
        fixed = {key: flat.get(key) for key, _ in dimension.when if key not in space.by_name}
        conditions = tuple((key, values) for key, values in dimension.when if key in fixed)
        if not with_fields(dimension, when=conditions).active({}, fixed):
            got = ", ".join(f"{key} is {show(value)}" for key, value in fixed.items())
            raise UsageError(
                f"tune.space.{dimension.name}: never searched: {got} and not in the space; search that too, or leave "
                f"{dimension.name} out"
            )


_OF_ALL_TRIALS = ("trainer.devices", "trainer.num_nodes")


def _check_keys(tune: TuneConfig, space: Space) -> None:
    for dimension in space.dimensions:
        for key in dimension.keys:
            if key.startswith(_OF_ALL_TRIALS):
                raise UsageError(
                    f"tune.space.{dimension.name}: the same for all trials, so it cannot be searched; set {key}=VALUE"
                )
            if tune.verb == "compress" and not key.startswith(("compress.", "export.")):
                raise UsageError(
                    f"tune.space.{dimension.name}: a compression starts from a model that is trained; allowed with "
                    "--verb compress: keys of compress and export, or METHOD.KEY such as prune.ratio"
                )


# What may change in the middle of a training: neither the model's shape nor the number of steps.
CHANGEABLE = ("optimizer.", "task.", "data.augment.", "trainer.gradient_clip")
_FIXED = ("optimizer.name", "task.name", "task.loss", "task.heads", "task.embedding")


def _check_population(tune: TuneConfig, space: Space) -> None:
    for dimension in space.dimensions:
        for key in dimension.keys:
            if not key.startswith(CHANGEABLE) or key in _FIXED:
                raise UsageError(
                    f"tune.space.{dimension.name}: cannot change in the middle of a training, which pbt does; "
                    f"allowed with it: keys of optimizer, task, data.augment, and trainer.gradient_clip; "
                    "or another tune.scheduler"
                )


def _grid_trials(config: Config, space: Space, confirmed: bool) -> int:
    tune = config.tune
    size = space.grid_size
    if size is None:
        endless = next(dimension.name for dimension in space.dimensions if dimension.size is None)
        raise UsageError(
            f"tune.space.{endless}: a range of real numbers has no grid; allowed with tune.search=grid: choice, int, "
            "or quniform with a step"
        )
    if size > max(GRID_ASKS_FROM, tune.trials) and not confirmed:
        sizes = " x ".join(f"{dimension.size} of {dimension.name}" for dimension in space.dimensions)
        raise UsageError(
            f"tune.search: a grid of {size:,} trials ({sizes}); to run all of them add --yes; else make it coarser, "
            f"or use tune.search=tpe with tune.trials={tune.trials}"
        )
    return len(space.grid(config))  # conditions leave some out


def build_sampler(config: Config, number: int) -> BaseSampler:
    """The sampler for one trial. It follows from seed, number and what the study knows: a resume goes on alike."""
    require_extra("optuna", "tune")
    from optuna import samplers

    tune, seed = config.tune, seed_of(config.run.seed, number)
    method = method_of(tune)
    makers: dict[str, Callable[[], BaseSampler]] = {
        "random": lambda: samplers.RandomSampler(seed),
        "grid": lambda: samplers.RandomSampler(seed),  # its points are handed in
        "qmc": lambda: samplers.QMCSampler(
            scramble=True,
            seed=config.run.seed,
            independent_sampler=samplers.RandomSampler(seed),
            warn_independent_sampling=False,
            warn_asynchronous_seeding=False,
        ),
        "tpe": lambda: samplers.TPESampler(
            n_startup_trials=STARTUP_TRIALS, multivariate=True, group=True, constant_liar=True, seed=seed
        ),
        "gp": lambda: samplers.GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS, warn_independent_sampling=False),
        "cmaes": lambda: samplers.CmaEsSampler(seed=seed, n_startup_trials=1, warn_independent_sampling=False),
        "nsga2": lambda: samplers.NSGAIISampler(seed=seed, population_size=min(50, max(8, tune.trials // 4))),
    }
    if method == "cmaes":
        require_extra("cmaes", "tune")
    with quiet():
        return makers[method]()


def build_pruner(config: Config) -> BasePruner:
    """ASHA (Li et al. 2020), Hyperband (Li et al. 2018; with TPE it is BOHB, Falkner et al. 2018), median stopping
    (Golovin et al. 2017), as Optuna has them: decisions follow from what is in the journal, so a resume loses nothing.
    """
    from optuna import pruners

    tune = config.tune
    rule, least, factor = rule_of(tune), tune.min_epochs, tune.reduction_factor
    with quiet():
        if rule == "asha":
            return pruners.SuccessiveHalvingPruner(min_resource=least, reduction_factor=factor)
        if rule == "hyperband":
            return pruners.HyperbandPruner(
                min_resource=least, max_resource=config.trainer.epochs, reduction_factor=factor
            )
        if rule == "median":
            return pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=least)
        return pruners.NopPruner()


@contextmanager
def quiet() -> Iterator[None]:
    """Holds back Optuna's announcements: that a feature is experimental, that another package would be faster."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def seed_of(seed: int, number: int) -> int:
    """Of one trial's choices."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:4], "big") % 2**31


def suggest(trial: Trial, space: Space, flat: Mapping[str, Any]) -> Point:
    """Ask the trial for every dimension that is searched beside those chosen before it. `flat`: the config's values."""
    point: Point = {}
    for dimension in space.dimensions:
        if dimension.active(point, flat):
            point[dimension.name] = _suggest(trial, dimension)
    return point


def _suggest(trial: Trial, dimension: Dimension) -> Any:
    name = dimension.name
    if dimension.kind == "choice":
        return from_label(dimension, trial.suggest_categorical(name, labels(dimension)))
    if dimension.is_whole:
        return trial.suggest_int(name, int(dimension.low), int(dimension.high), log=dimension.is_log)
    return trial.suggest_float(name, dimension.low, dimension.high, step=dimension.step, log=dimension.is_log)


def distribution(dimension: Dimension) -> BaseDistribution:
    from optuna import distributions as d

    if dimension.kind == "choice":
        return d.CategoricalDistribution(labels(dimension))
    if dimension.is_whole:
        return d.IntDistribution(int(dimension.low), int(dimension.high), log=dimension.is_log)
    return d.FloatDistribution(dimension.low, dimension.high, log=dimension.is_log, step=dimension.step)


def labels(dimension: Dimension) -> tuple[Any, ...]:
    """Choices as Optuna stores them: plain values; lists and mappings as JSON."""
    plain = all(isinstance(value, bool | int | float | str | None) for value in dimension.choices)
    distinct = len({str(value) for value in dimension.choices}) == len(dimension.choices)
    return dimension.choices if plain and distinct else tuple(json.dumps(value) for value in dimension.choices)


def from_label(dimension: Dimension, label: Any) -> Any:
    """The value that is stored so; of numbers itself."""
    if dimension.kind != "choice":
        return label
    return dimension.choices[labels(dimension).index(label)]


def to_label(dimension: Dimension, value: Any) -> Any:
    """The stored form of a value; of numbers themselves."""
    if dimension.kind != "choice":
        return value
    position = next(i for i, choice in enumerate(dimension.choices) if choice == value)
    return labels(dimension)[position]
