"""The search space in a config: how it may be written, what it refuses and in which words, and what its points are."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna import create_study
from optuna.samplers import RandomSampler

from scaledl.config import (
    Config,
    ConfigError,
    Dimension,
    Point,
    Space,
    changed_keys,
    dump_yaml,
    load_config,
    replace,
    space_of,
)
from scaledl.config.space import flat_values
from scaledl.config.tree import from_plain
from scaledl.tune.sampling import from_label, quiet, suggest, to_label

pytestmark = pytest.mark.unit

LR = "{loguniform: [1e-4, 1e-1]}"


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(*lines: str, above: str = "") -> None:
    """x.yaml with these lines as its space; the first of them is line 3 when there is nothing above."""
    Path("x.yaml").write_text(
        "\n".join([*([above] if above else []), "tune:", "  space:", *(f"    {x}" for x in lines)])
    )


def loaded(*lines: str, above: str = "", overrides: tuple[str, ...] = ()) -> Config:
    write(*lines, above=above)
    return load_config("x.yaml", overrides)


def described(*lines: str, above: str = "", overrides: tuple[str, ...] = ()) -> dict[str, str]:
    return dict(space_of(loaded(*lines, above=above, overrides=overrides)).describe())


def problems_of(*lines: str, above: str = "", overrides: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(*lines, above=above, overrides=overrides)
    return [str(problem) for problem in caught.value.problems]


# Forms


@pytest.mark.parametrize(
    "lines",
    [
        ("optimizer.lr: {loguniform: [1e-4, 1e-1]}", "data.batch_size: {choice: [16, 32]}"),
        ("optimizer: {lr: {loguniform: [1e-4, 1e-1]}}", "data: {batch_size: {choice: [16, 32]}}"),
        ("optimizer: {lr: {loguniform: [1e-4, 1e-1]}}", "data.batch_size: [16, 32]"),
        ("optimizer:", "  lr:", "    loguniform:", "    - 1e-4", "    - 0.1", "data: {batch_size: [16, 32]}"),
    ],
)
def test_dotted_nested_and_short_mean_the_same(lines: tuple[str, ...]) -> None:
    assert described(*lines) == {"optimizer.lr": "loguniform 0.0001 to 0.1", "data.batch_size": "choice [16, 32]"}
    nested = loaded(*lines)
    dotted = loaded("optimizer.lr: {loguniform: [1e-4, 1e-1]}", "data.batch_size: [16, 32]")
    assert set(nested.tune.space) == set(dotted.tune.space)


@pytest.mark.parametrize("line", [f"optimizer.lr: {LR}", f"optimizer: {{lr: {LR}}}", "optimizer.lr: [1e-3, 1e-2]"])
@pytest.mark.parametrize(
    ("value", "text"), [("{uniform: [0.1, 1]}", "uniform 0.1 to 1"), ("[0.5, 0.6]", "choice [0.5, 0.6]")]
)
def test_the_command_line_replaces_a_distribution_of_the_file(line: str, value: str, text: str) -> None:
    found = described(
        line, "data.batch_size: [16, 32]", overrides=(f"tune.space.optimizer.lr={value}", "tune.space.run.seed=[1, 2]")
    )
    assert found == {"optimizer.lr": text, "data.batch_size": "choice [16, 32]", "run.seed": "choice [1, 2]"}


def test_the_command_line_wins_over_a_dotted_key_after_a_nested_one() -> None:
    lines = ("optimizer: {weight_decay: {uniform: [0, 1]}}", f"optimizer.lr: {LR}")
    assert described(*lines, overrides=("tune.space.optimizer.lr={uniform: [0.1, 1]}",))["optimizer.lr"] == (
        "uniform 0.1 to 1"
    )


def test_a_file_replaces_a_distribution_of_its_base() -> None:
    Path("base.yaml").write_text(f"tune: {{space: {{optimizer: {{lr: {LR}}}}}}}")
    Path("y.yaml").write_text("base: base.yaml\ntune: {space: {optimizer: {lr: {uniform: [0.1, 1]}}}}")
    assert dict(space_of(load_config("y.yaml")).describe()) == {"optimizer.lr": "uniform 0.1 to 1"}


def test_a_condition_of_the_file_stays_when_the_command_line_replaces_the_range() -> None:
    found = described(
        "optimizer: {name: [adamw, sgd], momentum: {uniform: [0.1, 0.9], when: {optimizer.name: sgd}}}",
        overrides=("tune.space.optimizer.momentum={choice: [0.8, 0.9]}",),
    )
    assert found["optimizer.momentum"] == "choice [0.8, 0.9] when optimizer.name is 'sgd'"


def test_a_dimension_comes_after_what_it_depends_on() -> None:
    space = space_of(
        loaded(
            "model.hidden: {choice: [[1], [2, 3]], when: {model.family: mlp}}",
            "model.depth: {choice: [8, 14], when: {model: {family: [resnet]}}}",
            "model.family: [mlp, resnet]",
        )
    )
    assert [dimension.name for dimension in space.dimensions] == ["model.family", "model.hidden", "model.depth"]
    assert space.grid(Config()) == [
        {"model.family": "mlp", "model.hidden": [1]},
        {"model.family": "mlp", "model.hidden": [2, 3]},
        {"model.family": "resnet", "model.depth": 8},
        {"model.family": "resnet", "model.depth": 14},
    ]


RECIPE = "compress: {stages: [{method: prune}, {method: distill}, {method: prune}]}"


def test_a_method_stands_for_all_its_stages() -> None:
    config = loaded("prune.ratio: {uniform: [0.1, 0.5]}", above=RECIPE)
    space = space_of(config)
    assert space.by_name["prune.ratio"].keys == ("compress.stages.0.ratio", "compress.stages.2.ratio")
    stages = space.apply(config, {"prune.ratio": 0.25}).compress.stages
    assert [getattr(stage, "ratio", None) for stage in stages] == [0.25, None, 0.25]


def test_run_seed_may_be_searched() -> None:
    assert described("run.seed: {int: [0, 5]}") == {"run.seed": "int 0 to 5"}


def test_whole_sections_as_choices() -> None:
    config = loaded("model: {choice: [{family: mlp, hidden: [3]}, {family: resnet, depth: 8}]}")
    space = space_of(config)
    assert [space.apply(config, point).model.family for point in space.grid(config)] == ["mlp", "resnet"]


@pytest.mark.parametrize(
    ("text", "override", "names"),
    [
        ("{val_loss: min}", None, ["val_loss"]),
        ("{val_accuracy: max, params: min}", None, ["val_accuracy", "params"]),
        ("{val_loss: min}", "tune.objectives={params: min}", ["params"]),
        ("{val_loss: min}", "tune.objectives.params=min", ["val_loss", "params"]),
        (None, "tune.objectives={params: min}", ["params"]),
        (None, "tune.objectives.params=min", ["val_accuracy", "params"]),
    ],
)
def test_objectives_take_the_place_of_the_default(text: str | None, override: str | None, names: list[str]) -> None:
    Path("x.yaml").write_text(f"tune: {{objectives: {text}}}" if text else "{}")
    config = load_config("x.yaml", [override] if override else [])
    assert list(config.tune.objectives or config.objectives) == names
    assert list(replace(config, {"tune.objectives": {"macs": "min"}}).tune.objectives) == ["macs"]
    Path("y.yaml").write_text(dump_yaml(config))
    assert load_config("y.yaml").tune == config.tune


# What is refused

DISTRIBUTIONS = "allowed: one of choice, uniform, loguniform, quniform, int, logint"
SUCH_AS = "such as {loguniform: [1e-4, 1e-1]} or {choice: [16, 32]}"
RANGE = "allowed: a low end below the high end; for one value alone leave it out of the space and set optimizer.lr"
ABOVE_0 = "allowed: a low end greater than 0; a logarithm of 0 has no end: begin above, such as 1e-6"
STEP = "allowed: a step greater than 0 that fits into the range"
TWO = "allowed: uniform: [low, high], numbers"
BAD = [
    ("optimizer.lr", "{uniform: [0, .inf]}", f"got [0, inf]; {TWO}"),
    ("optimizer.lr", "{uniform: [.nan, 1]}", f"got [nan, 1]; {TWO}"),
    ("optimizer.lr", "{uniform: ['1', 2]}", f"got ['1', 2]; {TWO}"),
    ("optimizer.lr", "{uniform: [true, 2]}", f"got [true, 2]; {TWO}"),
    ("optimizer.lr", "{uniform: 3}", f"got 3; {TWO}"),
    ("optimizer.lr", "{uniform: [1, 2, 3]}", f"got [1, 2, 3]; {TWO}"),
    ("optimizer.lr", "{quniform: [1, 2]}", "got [1, 2]; allowed: quniform: [low, high, step], numbers"),
    ("optimizer.lr", "{quniform: [1, 2, 0]}", f"got [1, 2, 0]; {STEP}"),
    ("optimizer.lr", "{quniform: [1, 2, -1]}", f"got [1, 2, -1]; {STEP}"),
    ("optimizer.lr", "{quniform: [1, 2, 3]}", f"got [1, 2, 3]; {STEP}"),
    ("optimizer.lr", "{loguniform: [0, 1]}", f"got [0, 1]; {ABOVE_0}"),
    ("optimizer.lr", "{loguniform: [-1, 1]}", f"got [-1, 1]; {ABOVE_0}"),
    ("optimizer.lr", "{uniform: [1, 1]}", f"got [1, 1]; {RANGE}"),
    ("optimizer.lr", "{uniform: [2, 1]}", f"got [2, 1]; {RANGE}"),
    (
        "data.batch_size",
        "{int: [1.5, 3]}",
        "got [1.5, 3]; allowed: int: [low, high], whole numbers; use uniform or loguniform for others",
    ),
    ("data.batch_size", "[]", "got []; allowed: a list of at least one value; an empty choice has nothing to try"),
    ("data.batch_size", "{choice: []}", "got []; allowed: a list of at least one value"),
    ("data.batch_size", "{choice: 16}", "got 16; allowed: a list of at least one value"),
    ("data.batch_size", "[16, 32, 16]", "got [16, 32, 16]; allowed: every value once"),
    ("optimizer.lr", "[1, 1.0]", "got [1, 1.0]; allowed: every value once"),
    ("optimizer.betas", "[[0.9, 0.99], [0.9, 0.99]]", "allowed: every value once"),
    ("optimizer.lr", "{logunifrom: [1e-4, 1]}", f"{DISTRIBUTIONS}; did you mean 'loguniform'?"),
    ("optimizer.lr", "{gauss: [0, 1]}", f"got {{gauss: [0, 1]}}; {DISTRIBUTIONS}; {SUCH_AS}"),
    ("optimizer.lr", "{uniform: [0.1, 1], choice: [1]}", f"{DISTRIBUTIONS}; {SUCH_AS}"),
    ("optimizer.lr", "{when: {optimizer.name: sgd}}", f"{DISTRIBUTIONS}; {SUCH_AS}"),
    ("optimizer.lr", "3", f"got 3; allowed: a distribution {SUCH_AS}"),
    ("optimizer.lr", "null", f"got null; allowed: a distribution {SUCH_AS}"),
    ("optimizer.lr", "fast", f"got 'fast'; allowed: a distribution {SUCH_AS}"),
    ("optimizer.lr", "{}", f"got {{}}; allowed: a distribution {SUCH_AS}"),
    ("optimizer.lr", "{uniform: [-1, 0.1]}", "got -1.0; allowed: a number greater than 0"),
    ("optimizer.betas", "[[0.9, 0.99], [0.9, 1.5]]", "got 1.5; allowed: a number greater than 0 and less than 1"),
    ("optimizer.name", "[adamw, sdg]", "rmsprop, sgd; did you mean 'sgd'?"),
    ("data.batch_size", "{uniform: [16, 64]}", "a whole number from 1 to 1000000; use int, or choice"),
    ("data.batch_size", "{loguniform: [16, 64]}", "a whole number from 1 to 1000000; use logint, or choice"),
    ("optimizer.lrr", LR, "unknown key; did you mean 'optimizer.lr'? allowed: name, lr, weight_decay"),
    ("optimizr.lr", LR, "unknown key; did you mean 'optimizer'? allowed: base, run, data"),
    ("optimizer", "{uniform: [0, 1]}", "allowed: a section with the keys name, lr"),
    ("optimizer..lr", LR, "got 'optimizer..lr'; allowed: a dotted key such as optimizer.lr"),
    ("run.id", "[a, b]", "run.id cannot be searched; it names a trial's folder or steers the search itself"),
    ("run.name", "[a, b]", "run.name cannot be searched"),
    ("run.root", "[a, b]", "run.root cannot be searched"),
    ("run", "[{seed: 1}]", "run cannot be searched"),
    ("tune.trials", "{int: [1, 3]}", "tune.trials cannot be searched; it names"),
    ("tune.space.optimizer.lr", LR, "tune.space.optimizer.lr cannot be searched"),
    ("trainer.accumulate", "[2, 3]", "got 3; allowed: a divisor of data.batch_size, which is 128"),
    (
        "model.hidden",
        "[[1], [2]]",
        ", and this section is of resnet; search it there only",
    ),
    ("prune.ratio", "{uniform: [0.1, 0.5]}", "no stage of compress.stages is a prune"),
    ("compress.stages.3.ratio", "{uniform: [0.1, 0.5]}", "got entry '3'; compress.stages has 0 entries"),
]


@pytest.mark.parametrize(("key", "value", "part"), BAD)
def test_bad_distribution_says_key_line_got_and_allowed(key: str, value: str, part: str) -> None:
    problems = problems_of(f"{key}: {value}")
    assert len(problems) == 1
    assert problems[0].startswith(f"tune.space.{key} (x.yaml:3): ")
    assert part in problems[0]


SGD = "optimizer.name: [adamw, sgd]"
CONDITIONS = [
    ("{optimizr.name: sgd}", "unknown key 'optimizr.name'; did you mean 'optimizer.name'?"),
    (
        "{optimizer.name: sdg}",
        "got optimizer.name: 'sdg'; allowed: what optimizer.name may be: choice ['adamw', 'sgd']",
    ),
    ("{task.name: clasification}", "got task.name: 'clasification'; allowed: one of classification, "),
    ("{data.batch_size: -1}", "got data.batch_size: -1; allowed: a whole number from 1"),
]


@pytest.mark.parametrize(("condition", "part"), CONDITIONS)
def test_a_condition_that_is_wrong(condition: str, part: str) -> None:
    problems = problems_of(SGD, f"optimizer.lr: {{uniform: [0.1, 1], when: {condition}}}")
    assert len(problems) == 1
    assert problems[0].startswith("tune.space.optimizer.lr.when (x.yaml:4): ")
    assert part in problems[0]


@pytest.mark.parametrize(
    ("condition", "part"),
    [
        ("{}", "got {}; allowed: when: {other.key: value} or {other.key: [value, value]}"),
        ("sgd", "got 'sgd'; allowed: when: {other.key: value}"),
        ("{optimizer.name: []}", "allowed: at least one value for each key of `when`"),
    ],
)
def test_a_condition_without_a_value(condition: str, part: str) -> None:
    problems = problems_of(SGD, f"optimizer.lr: {{uniform: [0.1, 1], when: {condition}}}")
    assert problems == [next(p for p in problems if p.startswith("tune.space.optimizer.lr (x.yaml:4): ") and part in p)]


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        (("optimizer.lr: {uniform: [0.1, 1], when: {optimizer.lr: 0.5}}",), "optimizer.lr"),
        (
            (
                "optimizer.lr: {uniform: [0.1, 1], when: {data.batch_size: 8}}",
                "data.batch_size: {choice: [8, 16], when: {optimizer.lr: 0.5}}",
            ),
            "optimizer.lr, data.batch_size",
        ),
    ],
)
def test_circular_conditions(lines: tuple[str, ...], names: str) -> None:
    assert problems_of(*lines) == [
        f"tune.space (x.yaml:2): these keys wait for each other in their `when`: {names}",
    ]


def test_a_condition_on_a_part_of_what_is_searched_as_a_whole() -> None:
    lines = (
        "model: {choice: [{family: mlp}, {family: resnet}]}",
        "optimizer.lr: {uniform: [0.1, 1], when: {model.family: mlp}}",
    )
    assert "model.family is searched as model; write the condition on model" in problems_of(*lines)[0]


def test_one_key_set_by_two_names() -> None:
    problems = problems_of(
        "prune.ratio: {uniform: [0.1, 0.5]}", "compress.stages.2.ratio: {uniform: [0.1, 0.5]}", above=RECIPE
    )
    assert "prune.ratio and compress.stages.2.ratio both set compress.stages.2.ratio; leave one" in problems[0]


def test_an_alias_whose_values_the_stage_refuses() -> None:
    problems = problems_of("prune.ratio: {uniform: [0.1, 1.5]}", above=RECIPE)
    assert problems == [
        "tune.space.prune.ratio (x.yaml:4): got 1.5; allowed: a number greater than 0 and less than 1",
    ]


def test_a_conflict_of_two_searched_keys() -> None:
    problems = problems_of("data.batch_size: [16, 24]", "trainer.accumulate: [4, 16]")
    assert len(problems) == 1
    assert problems[0].startswith(
        "tune.space.trainer.accumulate (x.yaml:4): got 16; allowed: a divisor of data.batch_s"
    )


def test_a_conflict_with_a_key_that_is_not_searched() -> None:
    problems = problems_of("data.batch_size: [16, 24]", above="trainer: {accumulate: 16}")
    assert len(problems) == 1
    assert problems[0].startswith("trainer.accumulate (with tune.space at data.batch_size=24): got 16; allowed")


def test_keys_of_two_families_need_conditions() -> None:
    problems = problems_of("model.family: [mlp, resnet]", "model.depth: [8, 20]", "model.hidden: [[1]]")
    assert {problem.partition(" ")[0] for problem in problems} == {"tune.space.model.depth", "tune.space.model.hidden"}
    assert all("search it there only: model." in problem for problem in problems)


@pytest.mark.parametrize("value", ["3", "[1]", "null", "text"])
def test_a_space_that_is_no_mapping(value: str) -> None:
    Path("x.yaml").write_text(f"tune: {{space: {value}}}")
    with pytest.raises(ConfigError, match=r"tune.space \(x.yaml:1\): got .*; allowed: a section"):
        load_config("x.yaml")


def test_every_one_of_ten_thousand_choices_is_checked() -> None:
    many = ", ".join(map(str, range(1, 10_000)))
    assert "got 0; allowed: a whole number" in problems_of(f"data.batch_size: [{many}, 0]")[0]
    assert problems_of(f"data.batch_size: [{many}, 10000, 10001]") == [
        "tune.space.data.batch_size (x.yaml:3): got 10001 values; allowed: at most 10000 values",
    ]


@pytest.mark.parametrize(("depth", "part"), [(20, "unknown key"), (60, "allowed: at most 50 levels")])
def test_deep_nesting(depth: int, part: str) -> None:
    problems = problems_of("a: " + "{a: " * depth + "{uniform: [0, 1]}" + "}" * depth)
    assert len(problems) == 1
    assert part in problems[0]


def test_all_that_is_wrong_is_said_at_once() -> None:
    problems = problems_of("optimizer.lr: 3", "data.batch_size: []", "run.id: [a]", "optimizer.lrr: {int: [3, 1]}")
    assert len(problems) == 4


# What a dimension is


@pytest.mark.parametrize(
    ("kind", "low", "high", "step", "values", "outside"),
    [
        ("int", 1, 4, None, [1, 2, 3, 4], [0, 5, 1.5, "1", True, None, math.nan]),
        ("quniform", 0.0, 0.5, 0.1, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5], [0.25, -0.1, 0.6, False]),
        ("uniform", 0.5, 2.0, None, [0.5, 2.0], [0.4, 2.1, math.inf, "1", True]),
    ],
)
def test_values_of_a_range(
    kind: str, low: float, high: float, step: float | None, values: list[float], outside: list[Any]
) -> None:
    dimension = Dimension("x", ("x",), kind, low=low, high=high, step=step)
    assert list(dimension.values()) == values
    assert dimension.size in (None, len(values))
    assert all(map(dimension.holds, values))
    assert not any(map(dimension.holds, outside))


def test_the_end_of_a_stepped_range_is_the_last_step() -> None:
    dimension = space_of(loaded("task.label_smoothing: {quniform: [0.1, 1, 0.2]}")).dimensions[0]
    assert list(dimension.values()) == [0.1, 0.3, 0.5, 0.7, 0.9]


def test_a_choice_tells_true_from_one() -> None:
    dimension = Dimension("x", ("x",), "choice", choices=(True, "auto"))
    assert dimension.holds(True)
    assert not dimension.holds(1)


def test_the_default_point_has_what_the_space_has_a_place_for() -> None:
    config = loaded(
        SGD,
        f"optimizer.lr: {LR}",
        "optimizer.weight_decay: {quniform: [0, 1, 0.2]}",
        "optimizer.momentum: {uniform: [0.1, 0.9], when: {optimizer.name: sgd}}",
        "optimizer.betas: {choice: [[0.9, 0.999], [0.9, 0.9]], when: {optimizer.name: adamw}}",
        "data.batch_size: [16, 32]",
    )
    assert space_of(config).default_point(config) == {
        "optimizer.name": "adamw",
        "optimizer.lr": 0.001,
        "optimizer.betas": [0.9, 0.999],
    }


# Any space

log = st.tuples(st.integers(-6, -3), st.integers(-2, 0)).map(lambda ends: {"loguniform": [10.0**e for e in ends]})
whole = st.tuples(st.integers(1, 9), st.integers(10, 64)).map(lambda ends: {"int": list(ends)})
share = st.one_of(
    st.just({"uniform": [0.0, 0.5]}),
    st.sampled_from([0.05, 0.1, 0.3]).map(lambda step: {"quniform": [0, 0.9, step]}),
    st.lists(st.floats(0, 0.99), min_size=1, max_size=4, unique=True),
)
betas = st.lists(
    st.tuples(st.floats(0.1, 0.99), st.floats(0.1, 0.99)).map(list), min_size=1, max_size=3, unique_by=tuple
).map(lambda pairs: {"choice": pairs})
sgd = {"when": {"optimizer.name": "sgd"}}
adamw = {"when": {"optimizer.name": "adamw"}}
mlp = {"when": {"model.family": "mlp"}}
resnet = {"when": {"model.family": ["resnet"]}}
spaces = st.fixed_dictionaries(
    {
        "optimizer.name": st.permutations(["adamw", "sgd"]),
        "model.family": st.permutations(["mlp", "resnet"]).map(lambda names: {"choice": names}),
    },
    optional={
        "optimizer.lr": log,
        "optimizer.momentum": share.map(lambda d: {**(d if isinstance(d, dict) else {"choice": d}), **sgd}),
        "optimizer.betas": betas.map(lambda d: {**d, **adamw}),
        "task.label_smoothing": share,
        "data.batch_size": whole,
        "data.augment.flip": st.just([True, False]),
        "trainer.channels_last": st.just([True, False, "auto"]),
        "trainer.gradient_clip": st.just([None, 1, 0.5]),
        "model.hidden": st.just({"choice": [[], [8], [16, 8]], **mlp}),
        "model.depth": st.just({"choice": [8, 14], **resnet}),
    },
)


def points_of(space: Space, config: Config) -> list[Point]:
    flat = flat_values(from_plain(config, "config"))
    grid = space.grid(config) if all(d.size is not None and d.size < 9 for d in space.dimensions) else []
    with quiet():
        asked = create_study(sampler=RandomSampler(0)).ask()
    chosen = [space.default_point(config), suggest(asked, space, flat)]
    return [*islice(space.corners(flat), 4), *grid[:: len(grid) // 4 + 1], *chosen]


def overrides_of(point: Point) -> dict[str, Any]:
    return dict(sorted(point.items(), key=lambda item: item[0] != "model.family"))


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.too_slow])
@given(spaces)
def test_points_of_any_space(tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]) -> None:
    config = replace(Config(), {"tune.space": content})
    space = space_of(config)
    path = tmp_path_factory.getbasetemp() / "space.yaml"
    path.write_text(dump_yaml(config), encoding="utf-8")
    assert load_config(path, ["run.name=null"]) == config
    assert space_of(load_config(path)) == space
    for point in points_of(space, config):
        assert all(space.by_name[name].holds(value) for name, value in point.items())
        labels = {name: to_label(space.by_name[name], value) for name, value in point.items()}
        assert {name: from_label(space.by_name[name], label) for name, label in labels.items()} == point
        applied = space.apply(config, point)
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in overrides_of(point).items()}
        assert not changed_keys(replace(config, plain), applied)


@pytest.mark.parametrize(
    "point",
    [
        {},
        {"model.family": "mlp", "model.hidden": [4, 4]},
        {"model.family": "resnet", "model.depth": 8, "optimizer.betas": [0.8, 0.9]},
        {"optimizer.name": "sgd", "optimizer.momentum": 0.3, "trainer.gradient_clip": None},
    ],
)
def test_a_point_is_the_config_with_its_overrides(point: Point) -> None:
    config = loaded(
        "model.family: [mlp, resnet]",
        "model.hidden: {choice: [[4, 4]], when: {model.family: mlp}}",
        "model.depth: {choice: [8, 20], when: {model.family: resnet}}",
        SGD,
        "optimizer.betas: {choice: [[0.8, 0.9], [0.9, 0.999]], when: {optimizer.name: adamw}}",
        "optimizer.momentum: {uniform: [0.1, 0.9], when: {optimizer.name: sgd}}",
        "trainer.gradient_clip: [null, 1.0]",
        above="model: {width: 8}",
    )
    texts = [f"{key}={'null' if value is None else value}" for key, value in overrides_of(point).items()]
    assert space_of(config).apply(config, point) == load_config("x.yaml", texts)


def test_a_point_that_is_no_config_is_an_error_like_any_other() -> None:
    config = loaded("data.batch_size: {int: [64, 128]}", above="trainer: {accumulate: 2}")
    with pytest.raises(
        ConfigError, match=r"trainer.accumulate .*: got 2; allowed: a divisor of data.batch_size, which"
    ):
        space_of(config).apply(config, {"data.batch_size": 65})
