"""Which searched keys decide about an objective: fANOVA (Hutter, Hoos, Leyton-Brown 2014), as Optuna has it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scaledl.config import Dimension
from scaledl.report.findings import Findings, Objective, spread
from scaledl.tune.sampling import distribution, quiet, to_label
from scaledl.tune.study import Trial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

LEAST_TRIALS = 8
MOST_TRIALS = 200  # the forest of more takes many seconds and says the same
_TREES, _DEPTH = 32, 6  # deeper trees take twice as long and fit chance


@dataclass(frozen=True)
class Importance:
    """Share of the variance that each key explains alone, largest first; without any, `words` say why.

    `words` also name the trials and values that it was taken from.
    """

    objective: Objective
    shares: dict[str, float]
    words: str


def importances(found: Findings) -> list[Importance]:
    """One for each objective."""
    return [_importance(found, i) for i in range(len(found.objectives))]


def _importance(found: Findings, index: int) -> Importance:
    objective = found.objectives[index]
    trials, value, basis = _basis(found, index)
    names = [d.name for d in found.space.dimensions if d.size != 1 and all(d.name in trial.point for trial in trials)]
    if len(trials) < LEAST_TRIALS:
        return Importance(
            objective, {}, f"Too few trials: {len(trials)} have a value to compare, {LEAST_TRIALS} are needed."
        )
    if len({value(trial) for trial in trials}) < 2:
        return Importance(objective, {}, "All trials have the same value.")
    if len(names) < 2:
        return Importance(objective, {}, "Fewer than two keys are searched in every trial: nothing to compare.")
    chosen = spread(trials, MOST_TRIALS)
    try:
        shares = _fanova([_frozen(found, trial, names, value(trial)) for trial in chosen], names)
    except (ValueError, RuntimeError, ArithmeticError, ImportError) as error:
        return Importance(objective, {}, f"Could not be computed: {error}")
    words = f"From {basis}" + (f", {len(chosen)} of them" if len(chosen) < len(trials) else "") + "."
    return Importance(objective, shares, words + _words_of_others(found, trials, value, names))


def _words_of_others(
    found: Findings, trials: Sequence[Trial], value: Callable[[Trial], float], names: Sequence[str]
) -> str:
    """Keys that only some trials have, each compared among those."""
    told, left_out = [], []
    for dimension in found.space.dimensions:
        if dimension.size == 1 or dimension.name in names:
            continue
        having = spread([trial for trial in trials if dimension.name in trial.point], MOST_TRIALS)
        share = _share_among(found, having, value, [*names, dimension.name])
        if share is None:
            left_out.append(found.short(dimension))
        else:
            told.append(f"{found.short(dimension)} {share:.2f} (of {len(having)} trials)")
    words = f" Searched in some trials only, and compared among them: {', '.join(told)}." if told else ""
    return words + (f" Searched in too few to compare: {', '.join(left_out)}." if left_out else "")


def _share_among(
    found: Findings, trials: Sequence[Trial], value: Callable[[Trial], float], names: Sequence[str]
) -> float | None:
    """The last key's share of the variance among these trials."""
    if len(trials) < LEAST_TRIALS or len({value(trial) for trial in trials}) < 2:
        return None
    try:
        return _fanova([_frozen(found, trial, names, value(trial)) for trial in trials], names)[names[-1]]
    except (ValueError, RuntimeError, ArithmeticError, ImportError, KeyError):
        return None


def _basis(found: Findings, index: int) -> tuple[Sequence[Trial], Callable[[Trial], float], str]:
    """Trials that can be compared, and by what.

    Where most trials are stopped early, the complete ones are few and all alike: then it is the value after an epoch
    that a quarter of all trials reached. Values of different epochs are never mixed.
    """
    complete = found.complete
    reached = [trial for trial in found.trials if trial.curve and trial.state in ("complete", "stopped")]
    needed = max(LEAST_TRIALS, math.ceil(len(reached) / 4))
    if len(complete) < needed and index == 0:
        lengths = sorted((max(trial.curve) for trial in reached), reverse=True)
        epoch = lengths[needed - 1] if len(lengths) >= needed else 0
        alike = sorted((t for t in reached if epoch in t.curve), key=lambda t: found.first.cost(t.curve[epoch]))
        if len(alike) >= LEAST_TRIALS:
            what = (
                f"the values after epoch {epoch}, which {len(alike)} trials reached (only {len(complete)} are complete)"
            )
            return alike, lambda trial: trial.curve[epoch], what
    return complete, lambda trial: trial.values[index], f"the {len(complete)} complete trials"


def _frozen(found: Findings, trial: Trial, names: Sequence[str], value: float) -> FrozenTrial:
    from optuna.trial import create_trial

    searched = {name: _as_drawn(found.space.by_name[name], trial.point[name]) for name in names}
    return create_trial(
        params={name: stored for name, (stored, _) in searched.items()},
        distributions={name: of for name, (_, of) in searched.items()},
        value=value,
    )


def _as_drawn(dimension: Dimension, value: Any) -> tuple[Any, BaseDistribution]:
    """The value on the scale on which it is searched.

    Optuna's fANOVA averages over plain values: of a learning rate from 1e-4 to 1e-1 only the last decade would count.
    """
    from optuna.distributions import FloatDistribution

    if dimension.is_log:
        return math.log(value), FloatDistribution(math.log(dimension.low), math.log(dimension.high))
    return to_label(dimension, value), distribution(dimension)


def _fanova(trials: Sequence[FrozenTrial], names: Sequence[str]) -> dict[str, float]:
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        study = optuna.create_study()
        study.add_trials(trials)
        evaluator = FanovaImportanceEvaluator(n_trees=_TREES, max_depth=_DEPTH, seed=0)
        shares = get_param_importances(study, evaluator=evaluator, params=list(names), normalize=False)
    return {name: float(share) for name, share in shares.items()}
