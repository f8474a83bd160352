"""What a config can know of a task before anything is imported."""

from __future__ import annotations

import pytest

from scaledl.config import Config, ConfigError, load_config, replace
from scaledl.config.figures import FIGURES, figure_of, written
from scaledl.config.registry import LOSSES, METRICS, TASKS
from scaledl.config.schema import TaskConfig
from scaledl.config.traits import TRAITS, figures_of
from scaledl.tasks.base import Task

pytestmark = pytest.mark.unit


def problem(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)
    return str(caught.value)


def test_tables_of_tasks_fit_together() -> None:
    assert tuple(sorted(TRAITS)) == TASKS.names()
    taken = {key for traits in TRAITS.values() for key in traits.keys or ()}
    assert taken == set(TaskConfig.model_fields) - {"name", "loss", "metrics"}
    assert {loss for traits in TRAITS.values() for loss in traits.losses} == set(LOSSES.names())
    for name in TASKS.names():
        task = TASKS.resolve(name)
        assert issubclass(task, Task)
        assert task.targets
        assert set(figures_of({"name": name})) <= set(FIGURES)
    for registry in (TASKS, LOSSES, METRICS):
        assert all(registry.entry(name).summary for name in registry.names())


@pytest.mark.parametrize("name", TRAITS)
def test_a_search_makes_the_headline_best(name: str) -> None:
    heads = ["task.heads={a: {kind: numbers, columns: [x]}}"] if name == "multi_task" else []
    config = load_config(None, [f"task.name={name}", *heads])
    [(objective, way)] = config.objectives.items()
    assert objective == f"val_{config.task.headline}"
    found = figure_of(objective)
    assert found is not None
    assert way == found.way
    added = load_config(None, [f"task.name={name}", *heads, "tune.objectives.params=min"])
    assert list(added.objectives) == [objective, "params"]


def test_objectives_that_nobody_measures() -> None:
    said = problem("task.name=regression", "tune.objectives={val_accuracy: max}")
    assert "tune.objectives.val_accuracy (command line): got max; allowed: with task.name=regression val_loss" in said
    assert "val_METRIC for each of task.metrics" in said
    assert "tune.objectives.val_foo" in problem("tune.objectives={val_foo: max}")
    assert "tune.objectives.bar" in problem("tune.objectives={bar: max}")
    found = load_config(None, ["task.metrics=[auroc]", "tune.objectives={val_auroc: max}"])
    assert dict(found.objectives) == {"val_auroc": "max"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("task.name=regression", "task.loss=focal"), "task.loss (command line): got focal; allowed: with task.name"),
        (("task.loss=mze",), "did you mean 'mse'?"),
        (("task.loss=os.system",), "one's own as path.to.module:name"),
        (
            ("task.metrics=[rmse]",),
            "task.metrics (command line): got rmse; allowed: with task.name=classification any",
        ),
        (("task.metrics=[f2]",), "task.metrics.0 (command line): got 'f2'; allowed: one of accuracy"),
        (("task.kl_weight=2",), "task.kl_weight (command line): got 2.0; allowed: with task.name=classification 1.0"),
        (("task.name=tagging", "task.anomaly_label=x"), "task.anomaly_label (command line): got x"),
        (("task.loss=a.b:c", "task.class_weights=balanced"), "null with one's own loss"),
        (("task.class_weights=often",), "task.class_weights (command line): got 'often'"),
        (
            ("task.name=semi_supervised", "task.class_weights=balanced"),
            "=semi_supervised null: it has no such",
        ),
        (
            ("task.name=semi_supervised", "task.unlabeled_fraction=0.5", "data.sampling=balanced"),
            "data.sampling (command line): got balanced; allowed: shuffle with task.unlabeled_fraction",
        ),
        (
            ("task.name=transcription", "task.metrics=[accuracy]"),
            "got accuracy; allowed: with task.name=transcription []: it has figures of its own alone",
        ),
        (
            ("task.name=multi_task", "task.heads={a: {kind: numbers, columns: [x]}}", "task.loss=my.losses:mine"),
            "got my.losses:mine; allowed: with task.name=multi_task null: each head has the loss of its kind",
        ),
        (
            ("task.heads={a: {kind: numbers, columns: [x]}}",),
            "got {'a': {'kind': 'numbers', 'columns': ['x']}}; allowed: with task.name=classification {}",
        ),
        (("task.focal_gamma=3",), "got 3.0; allowed: 2.0 with the loss cross_entropy: it is a key of focal; change it"),
        (("task.name=regression", "task.huber_delta=3"), "allowed: 1.0 with the loss mse: it is a key of huber"),
        (("task.name=contrastive", "task.margin=1"), "allowed: 0.2 with the loss nt_xent: it is a key of triplet"),
        (
            ("task.name=contrastive", "task.loss=triplet", "task.temperature=1"),
            "allowed: 0.5 with the loss triplet: it is a key of nt_xent; change it or task.loss (command line)",
        ),
        (
            ("task.loss=a.b:c", "task.label_smoothing=0.1"),
            "allowed: 0.0 with the loss a.b:c: it is a key of cross_entropy and focal",
        ),
    ],
)
def test_what_a_task_has_no_use_for(overrides: tuple[str, ...], message: str) -> None:
    assert message in problem(*overrides)


def test_a_loss_of_ones_own_is_not_imported_for_a_check() -> None:
    assert load_config(None, ["task.loss=nowhere.to.be:found"]).task.loss == "nowhere.to.be:found"


def test_a_stage_cannot_smooth_labels_that_are_none() -> None:
    config = replace(Config(), {"task.name": "regression"})
    with pytest.raises(ConfigError, match=r"task\.label_smoothing"):
        replace(config, {"task.label_smoothing": 0.1})


def test_the_headline_of_anomalies_is_how_they_stand_out() -> None:
    assert TaskConfig(name="reconstruction").headline == "mse"
    assert TaskConfig(name="reconstruction", anomaly_label="odd").headline == "auroc"


def test_figures_are_written_as_people_read_them() -> None:
    assert [
        written(name, value) for name, value in {"test_f1": 0.5, "val_rmse": 12345.6, "auroc": 0.91234}.items()
    ] == [
        "50.00 %",
        "12346",
        "0.9123",
    ]


@pytest.mark.parametrize(
    ("override", "problems"),
    [
        (
            "task.heads={age: {kind: number, columns: [age]}}",
            [
                "task.heads.age.kind (command line): got 'number'; allowed: one of class, labels, numbers; "
                "did you mean 'numbers'?"
            ],
        ),
        (
            "task.heads.age.kind=numbers",
            [
                "task.heads.age (command line): got {kind: 'numbers'}; allowed: a section with the keys kind, columns, "
                "classes, weight; give it columns"
            ],
        ),
        (
            "task.heads={Age: {kind: numbers, columns: [age]}}",
            [
                "task.heads (command line): got the key 'Age'; allowed: a section whose keys are names of small "
                "letters, digits and '_', beginning with a letter, each with a section with the keys kind, "
                "columns, classes, weight"
            ],
        ),
        (
            "task.heads={age: {kind: numbers, columns: [age], wait: 2}}",
            [
                "task.heads.age.wait (command line): unknown key; did you mean 'task.heads.age.weight'? allowed: kind, "
                "columns, classes, weight"
            ],
        ),
    ],
)
def test_a_problem_of_a_head_names_the_key_in_it_and_no_other(override: str, problems: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, ["task.name=multi_task", override])
    assert [str(problem) for problem in error.value.problems] == problems


def test_a_key_of_one_loss_is_searched_with_that_loss() -> None:
    said = problem("tune.space={task.loss: [cross_entropy, focal], task.focal_gamma: {uniform: [1, 3]}}")
    assert "search it there only: task.focal_gamma: {uniform: [1.0, 3.0], when: {task.loss: focal}}" in said
