"""Settings come once, whoever chooses them; a space that is used up ends the search."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.tune.fake_executor import Executor, open_search_of, search_config

from scaledl.config import Dimension, Point, Space, space_of
from scaledl.tune.study import Study
from scaledl.tune.untried import Tried

pytestmark = pytest.mark.unit

FINITE: dict[str, Any] = {
    "optimizer.name": ["adamw", "sgd"],
    "data.augment.crop": {"int": [0, 2]},
    "optimizer.momentum": {"quniform": [0.1, 0.9, 0.4], "when": {"optimizer.name": "sgd"}},
    "optimizer.betas": {"choice": [[0.9, 0.99], [0.8, 0.9]], "when": {"optimizer.name": "adamw"}},
}
SIZE = 3 * (2 + 3)


def study_in(folder: Path, space: dict[str, Any] = FINITE, **tune: Any) -> Study:
    config = search_config(folder, space, **tune)
    return Study(folder, config, space_of(config))


def key(point: Point) -> str:
    return json.dumps(point, sort_keys=True)


def asked(study: Study, count: int) -> list[str]:
    keys = []
    for i in range(count):
        assert not study.is_exhausted
        number, point = study.ask()
        keys.append(key(point))
        study.tell(number, "complete", [float(i % 4)] * len(study.directions))
    return keys


@pytest.mark.parametrize("search", ["random", "tpe", "gp", "qmc", "cmaes", "nsga2"])
def test_every_setting_comes_once(tmp_path: Path, search: str) -> None:
    more = {"objectives": {"val_accuracy": "max", "val_loss": "min"}} if search == "nsga2" else {}
    study = study_in(tmp_path, search=search, scheduler="none", trials=SIZE, **more)
    keys = asked(study, SIZE)
    assert len(set(keys)) == SIZE
    assert study.is_exhausted
    assert {key(point) for point in study.space.grid(study.config)} == set(keys)


def test_also_after_a_restart_and_beside_a_trial_that_runs(tmp_path: Path) -> None:
    study = study_in(tmp_path, search="tpe", scheduler="none")
    keys = [key(study.ask()[1]), *asked(study, 6)]
    keys += asked(study_in(tmp_path, search="tpe", scheduler="none"), SIZE - 7)
    assert len(set(keys)) == SIZE


def test_what_another_search_tried_may_come_again(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    earlier = study_in(tmp_path / "one", search="random", scheduler="none")
    asked(earlier, SIZE)
    study = study_in(tmp_path / "other", search="random", scheduler="none")
    assert study.add_known(earlier.own(), "s/x") == SIZE
    assert len(set(asked(study, SIZE))) == SIZE


def test_a_range_of_real_numbers_is_never_used_up(tmp_path: Path) -> None:
    study = study_in(tmp_path, {**FINITE, "optimizer.lr": {"loguniform": [1e-4, 1e-1]}}, search="random")
    asked(study, 3 * SIZE)
    assert not study.is_exhausted


@pytest.mark.parametrize(
    ("space", "count"),
    [
        ({"data.batch_size": {"int": [1, 20_000]}}, 40),
        ({"optimizer.lr": {"choice": [i / 1e6 for i in range(1, 1501)]}}, 40),
    ],
)
def test_a_wide_space_is_not_used_up_by_a_few_trials(tmp_path: Path, space: dict[str, Any], count: int) -> None:
    study = study_in(tmp_path, space, search="tpe", scheduler="none")
    assert len(set(asked(study, count))) == count
    tried = Tried(study.space, {})
    tried.add(tried.completion({}, random.Random(0)) or {})
    assert tried.completion({}, random.Random(0)) is not None


def test_a_search_ends_when_its_space_is_used_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = Executor(open_search_of(search_config(tmp_path, FINITE, trials=50, scheduler="none")), slots=2).run()
    assert len(search.study.own()) == SIZE
    assert search.is_over
    assert f"no further trial begins: all {SIZE} settings of tune.space were tried" in capsys.readouterr().out


CHOICES = st.lists(st.integers(1, 3), min_size=1, max_size=4)


@given(CHOICES, st.data())
def test_a_completion_had_no_trial_and_agrees_with_its_part(sizes: list[int], data: st.DataObject) -> None:
    dimensions = [
        Dimension(f"k{i}", (f"k{i}",), "choice", tuple(range(size)), when=(("k0", (0,)),) if i % 2 else ())
        for i, size in enumerate(sizes)
    ]
    space = Space(tuple(dimensions))
    tried = Tried(space, {})
    points = _grid(dimensions)
    known = data.draw(st.lists(st.sampled_from(points), unique_by=key))
    for point in known:
        tried.add(point)
    part = data.draw(st.fixed_dictionaries({}, optional={d.name: st.sampled_from(d.choices) for d in dimensions}))
    left = [p for p in points if p not in known and all(p.get(name, v) == v for name, v in part.items())]
    found = tried.completion(part, random.Random(0))
    assert (found in left) if left else found is None


def _grid(dimensions: list[Dimension]) -> list[Point]:
    points: list[Point] = [{}]
    for d in dimensions:
        points = [more for p in points for more in ([{**p, d.name: v} for v in d.choices] if d.active(p, {}) else [p])]
    return points
