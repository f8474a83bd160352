"""How settings are chosen: every search on a cheap function, over the study's own ask and tell."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest

from scaledl.config import Config, Dimension, Point, Space, replace, space_of
from scaledl.errors import UsageError
from scaledl.tune import sampling
from scaledl.tune.sampling import build_pruner, check_search, from_label, labels, method_of, rule_of, to_label
from scaledl.tune.study import Study

pytestmark = pytest.mark.unit

NUMBERS = {
    "optimizer.lr": {"loguniform": [1e-4, 1e-1]},
    "scheduler.warmup_epochs": {"uniform": [0, 3]},
    "task.label_smoothing": {"quniform": [0, 0.5, 0.15]},
    "data.augment.crop": {"int": [0, 4]},
    "data.batch_size": {"logint": [16, 256]},
}
CONDITIONAL = {
    **NUMBERS,
    "optimizer.name": ["adamw", "sgd"],
    "optimizer.betas": {"choice": [[0.9, 0.99], [0.8, 0.9]], "when": {"optimizer.name": "adamw"}},
    "optimizer.momentum": {"uniform": [0.1, 0.9], "when": {"optimizer.name": "sgd"}},
    "trainer.channels_last": [True, False, "auto"],
}
PARETO = {"val_accuracy": "max", "val_loss": "min"}


def config_of(search: str, space: dict[str, Any], **tune: Any) -> Config:
    changes = {f"tune.{key}": value for key, value in tune.items()}
    return replace(Config(), {"tune.space": space, "tune.search": search, "tune.scheduler": "none", **changes})


def score(point: Point) -> float:
    """Best at lr 10**-2.5, no label smoothing and little momentum."""
    smoothing, momentum = point.get("task.label_smoothing", 0.0), point.get("optimizer.momentum", 0.5)
    return float(-abs(math.log10(point["optimizer.lr"]) + 2.5) - smoothing - momentum)


def go(folder: Path, config: Config, count: int) -> list[Point]:
    """So many further trials, as a search that was started anew would make them."""
    space = space_of(config)
    study = Study(folder, config, space)
    points = []
    for _ in range(count):
        number, point = study.ask()
        value = score(point)
        study.tell(number, "complete", [value, value * value][: len(config.objectives)])
        points.append(point)
    return points


def searched(search: str, seed: int = 0) -> Config:
    config = config_of(
        search, CONDITIONAL, objectives=PARETO if search == "nsga2" else {"val_accuracy": "max"}, trials=32
    )
    return replace(config, {"run.seed": seed})


@pytest.mark.parametrize(
    ("search", "parts"),
    [
        ("random", (1, 3, 4)),
        ("qmc", (1, 3, 4)),
        ("tpe", (7, 5, 4)),
        ("cmaes", (2, 7, 5)),
        ("nsga2", (7, 5, 8)),
        ("gp", (3, 1)),
    ],
)
def test_a_resumed_search_goes_on_as_if_nothing_had_been(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    search: str,
    parts: tuple[int, ...],
) -> None:
    config = searched(search)
    if search == "gp":  # each trial after the first ones costs a second
        monkeypatch.setattr(sampling, "STARTUP_TRIALS", 2)
        few = {name: CONDITIONAL[name] for name in ("optimizer.lr", "optimizer.name", "optimizer.momentum")}
        config = config_of("gp", few)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = go(tmp_path / "a", config, sum(parts))
        again = [point for count in parts for point in go(tmp_path / "b", config, count)]
    assert again == whole
    assert len({str(point) for point in whole}) > len(whole) // 2  # nsga2 may repeat a parent
    assert capfd.readouterr() == ("", "")
    space = space_of(config)
    for point in whole:
        assert all(space.by_name[name].holds(value) for name, value in point.items())
        assert ("optimizer.momentum" in point) == (point["optimizer.name"] == "sgd")
        assert space.apply(config, point)


@pytest.mark.parametrize("search", ["random", "qmc", "tpe"])
def test_the_seed_decides(tmp_path: Path, search: str) -> None:
    found = []
    for name, seed in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        found.append(go(tmp_path / name, searched(search, seed), 3))
    assert found[0] != found[1]


@pytest.mark.parametrize("search", ["random", "qmc"])
def test_conditional_keys_are_drawn_anew_each_time(tmp_path: Path, search: str) -> None:
    drawn = [p["optimizer.momentum"] for p in go(tmp_path, searched(search), 12) if "optimizer.momentum" in p]
    assert len(set(drawn)) == len(drawn) > 1


@pytest.mark.parametrize("search", ["tpe", "cmaes"])
def test_what_learns_beats_chance(tmp_path: Path, search: str) -> None:
    best = {}
    for name in (search, "random"):
        (tmp_path / name).mkdir()
        best[name] = sum(sorted(map(score, go(tmp_path / name, config_of(name, NUMBERS), 30)))[-10:])
    assert best[search] > best["random"]


def test_the_configs_own_values_first_where_the_space_has_them(tmp_path: Path) -> None:
    config = replace(config_of("tpe", CONDITIONAL), {"task.label_smoothing": 0.1})  # no step of the range
    space = space_of(config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, point = Study(tmp_path, config, space).ask(space.default_point(config))
    assert (point["optimizer.lr"], point["data.batch_size"], point["optimizer.name"]) == (0.001, 128, "adamw")
    assert point["trainer.channels_last"] == "auto"
    assert space.by_name["task.label_smoothing"].holds(point["task.label_smoothing"])


@pytest.mark.parametrize(
    ("choices", "stored"),
    [
        ((16, 32), (16, 32)),
        ((True, False, "auto"), (True, False, "auto")),
        ((None, 1.0), (None, 1.0)),
        ((1, "1"), ("1", '"1"')),
        (([1, 2], []), ("[1, 2]", "[]")),
        (({"family": "mlp"}, {"family": "resnet"}), ('{"family": "mlp"}', '{"family": "resnet"}')),
    ],
)
def test_labels_are_plain_values_or_json(choices: tuple[Any, ...], stored: tuple[Any, ...]) -> None:
    dimension = Dimension("x", ("x",), "choice", choices=choices)
    assert labels(dimension) == stored
    assert [from_label(dimension, to_label(dimension, choice)) for choice in choices] == list(choices)


# What auto means, and what cannot be searched


@pytest.mark.parametrize(
    ("changes", "method", "rule"),
    [
        ({}, "tpe", "asha"),
        ({"tune.objectives": PARETO}, "nsga2", "none"),
        ({"tune.search": "grid"}, "grid", "none"),
        ({"tune.verb": "compress"}, "tpe", "none"),
        ({"tune.search": "gp", "tune.scheduler": "median"}, "gp", "median"),
    ],
)
def test_auto(changes: dict[str, Any], method: str, rule: str) -> None:
    tune = replace(Config(), changes).tune
    assert (method_of(tune), rule_of(tune)) == (method, rule)


SIZES = {"data.batch_size": [16, 32]}
LR = {"optimizer.lr": {"uniform": [0.1, 1]}}
MANY = {"data.batch_size": {"int": [1, 2000]}, "data.augment.crop": {"int": [0, 9]}}
SGD = {"optimizer.momentum": {"uniform": [0.1, 0.9], "when": {"optimizer.name": "sgd"}}}
REFUSED = [
    ({}, {}, "tune.space: empty; name what to search"),
    (LR, {"objectives": PARETO, "scheduler": "asha"}, "tune.scheduler: got 'asha' with 2 objectives; allowed: none"),
    (LR, {"objectives": PARETO, "search": "cmaes"}, "got 'cmaes' with several objectives; allowed: nsga2, tpe"),
    (LR, {"objectives": {"params": "min"}, "scheduler": "asha"}, "got 'asha' with the objective params of a train"),
    (SIZES, {"search": "cmaes"}, "got 'cmaes', which needs numbers; this space has choices only; allowed: tpe, gp"),
    ({**LR, **SIZES}, {"search": "grid"}, "tune.space.optimizer.lr: a range of real numbers has no grid"),
    (MANY, {"search": "grid"}, r"a grid of 20,000 trials \(2000 of data.batch_size x 10 of data.augment.crop\)"),
    (SIZES, {"scheduler": "pbt"}, "tune.space.data.batch_size: cannot change in the middle of a training"),
    ({"optimizer.name": ["adamw", "sgd"]}, {"scheduler": "pbt"}, "tune.space.optimizer.name: cannot change in the mid"),
    (SGD, {}, "tune.space.optimizer.momentum: never searched: optimizer.name is 'adamw' and not in the space"),
    ({"trainer.devices": [1, 2]}, {}, "tune.space.trainer.devices: the same for all trials"),
    (LR, {"verb": "compress"}, "tune.space.optimizer.lr: a compression starts from a model that is trained"),
]


@pytest.mark.parametrize(("space", "tune", "part"), REFUSED)
def test_what_cannot_be_searched(space: dict[str, Any], tune: dict[str, Any], part: str) -> None:
    config = config_of(**{"search": "auto", "space": space, **tune})
    with pytest.raises(UsageError, match=part):
        check_search(config, space_of(config), confirmed=False)


def test_a_large_grid_is_run_when_it_is_meant() -> None:
    config = config_of("grid", MANY)
    assert check_search(config, space_of(config), confirmed=True) == 20_000
    enough = replace(config, {"tune.trials": 20_000})
    assert check_search(enough, space_of(enough), confirmed=False) == 20_000


def test_the_trials_of_a_grid_with_conditions_are_its_points() -> None:
    space = {
        "optimizer.name": ["adamw", "sgd"],
        "optimizer.momentum": {"choice": [0.5, 0.9], **SGD["optimizer.momentum"]},
    }
    del space["optimizer.momentum"]["uniform"]  # type: ignore[attr-defined]
    config = config_of("grid", space)
    assert check_search(config, space_of(config), confirmed=False) == len(space_of(config).grid(config)) == 3


def test_other_searches_make_as_many_trials_as_are_asked_for() -> None:
    config = config_of("random", LR, trials=17)
    assert check_search(config, space_of(config), confirmed=False) == 17


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        ("asha", "SuccessiveHalvingPruner"),
        ("hyperband", "HyperbandPruner"),
        ("median", "MedianPruner"),
        ("pbt", "NopPruner"),
        ("none", "NopPruner"),
    ],
)
def test_the_pruner_of_a_rule(rule: str, name: str) -> None:
    config = replace(config_of("auto", LR), {"tune.scheduler": rule})
    assert type(build_pruner(config)).__name__ == name


def test_an_empty_space_has_one_point() -> None:
    assert Space(()).grid(Config()) == [{}]
