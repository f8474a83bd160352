from __future__ import annotations

import json
import math
import random
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.unit.report.page import Page

from scaledl.config import load_config, space_of
from scaledl.errors import UsageError
from scaledl.report import importance, write_report
from scaledl.report.charts import Frame
from scaledl.report.findings import Findings, read_findings
from scaledl.report.importance import importances
from scaledl.report.parallel import NOT_SEARCHED
from scaledl.report.search_charts import Clip, Objective
from scaledl.run import Run
from scaledl.tune import study as study_module
from scaledl.tune.sampling import distribution, to_label
from scaledl.tune.study import Study

pytestmark = pytest.mark.unit

PAYLOAD = "<script>alert('x')</script>&\""
LR = "tune.space.optimizer.lr={loguniform: [1e-4, 1e-1]}"
BATCH = "tune.space.data.batch_size=[32, 64, 128]"
DECAY = "tune.space.optimizer.weight_decay={uniform: [0, 0.2]}"
MOMENTUM = "tune.space.optimizer.momentum={uniform: [0.5, 0.99], when: {optimizer.name: sgd}}"
OPTIMIZER = "tune.space.optimizer.name=[adamw, sgd]"


def search(root: Path, *overrides: str) -> tuple[Run, Study]:
    config = load_config(None, ["trainer.epochs=4", *(overrides or (LR, BATCH))])
    run = Run.create(root, "search", kind="tune", config=config)
    return run, Study(run.path, config, space_of(config))


def add(
    study: Study,
    point: Mapping[str, Any],
    values: tuple[float, ...] = (),
    state: str = "complete",
    curve: Mapping[int, float] | None = None,
    **attributes: Any,
) -> None:
    """A trial as a search leaves it behind."""
    from optuna.trial import TrialState, create_trial

    known = {"complete": TrialState.COMPLETE, "running": TrialState.RUNNING, "failed": TrialState.FAIL}
    noted = {"epochs": max(curve or {}, default=0), "seconds": 2.0, "attempts": 1, "host": "n1", **attributes}
    trial = create_trial(
        state=known.get(state, TrialState.PRUNED),
        params={name: to_label(study.space.by_name[name], value) for name, value in point.items()},
        distributions={name: distribution(study.space.by_name[name]) for name in point},
        values=list(values) if state == "complete" else None,
        intermediate_values=dict(curve or {}),
        user_attrs=noted if state == "running" else {**noted, "outcome": state},
    )
    trial.datetime_start = datetime.now(UTC)
    study.optuna.add_trial(trial)


def random_point(rng: random.Random) -> dict[str, Any]:
    return {"optimizer.lr": 10 ** rng.uniform(-4, -1), "data.batch_size": rng.choice([32, 64, 128])}


def quality(point: Mapping[str, Any]) -> float:
    """Decided by the learning rate alone."""
    return 0.95 - 0.1 * abs(math.log10(point["optimizer.lr"]) + 2)


def fill(study: Study, number: int, seed: int = 0) -> None:
    rng = random.Random(seed)
    for _ in range(number):
        point = random_point(rng)
        value = quality(point)
        add(study, point, (value,), curve={epoch: value - 0.1 / epoch for epoch in range(1, 5)})


def page_of(run: Run, root: Path) -> Page:
    return Page(write_report(run, root).read_text(encoding="utf-8"))


def findings(run: Run) -> Findings:
    found = read_findings(run)
    assert isinstance(found, Findings), found
    return found


@pytest.fixture(autouse=True)
def _silent(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    printed = capsys.readouterr()
    assert printed.out + printed.err == ""


def test_a_search_on_one_page_without_the_network(tmp_path: Path) -> None:
    run, study = search(tmp_path)
    fill(study, 12)
    add(study, {"optimizer.lr": 0.05, "data.batch_size": 32}, state="stopped", curve={1: 0.2}, seconds=3.0)
    add(study, {"optimizer.lr": 0.09, "data.batch_size": 32}, state="nonfinite", error="the loss became NaN")
    (run.path / "best.yaml").write_text("a: b")
    run.finish("complete", val_accuracy=0.95)
    page = page_of(run, tmp_path)
    expected = ("14 of 64", "loguniform 0.0001 to 0.1", "choice [32, 64, 128]", "tpe", "asha", "val_accuracy (max)")
    for text in (*expected, "the loss became NaN", "9.0 s", f"scaledl train {run.path}/best.yaml", "n1"):
        assert text in page.text, text
    pictures = ["Best val_accuracy so far", "Learning curves", "Parallel coordinates", "Importances for val_accuracy"]
    assert page.pictures() == pictures
    names = {name for name, _ in page.tags}
    assert names.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "a", "form", "base"})
    assert re.findall(r"https?:|url\(|@import", page.raw) == []
    assert "default-src 'none'" in page.raw


def test_the_best_trials_name_what_is_other_than_in_the_config(tmp_path: Path) -> None:
    run, study = search(tmp_path)
    add(study, {"optimizer.lr": 0.02, "data.batch_size": 128}, (0.9,))
    add(study, {"optimizer.lr": 0.001, "data.batch_size": 128}, (0.8,))
    text = page_of(run, tmp_path).text
    assert run.config.data.batch_size == 128
    assert "optimizer.lr=0.02" in text
    assert "batch_size=128" not in text
    assert "the config as it is" in text


@pytest.mark.parametrize(("way", "expected"), [("max", [0.2, 0.5, 0.9]), ("min", [0.2, 0.1])])
def test_the_best_so_far_only_gets_better(tmp_path: Path, way: str, expected: list[float]) -> None:
    name = "val_loss"
    run, study = search(tmp_path, LR, f"tune.objectives={{{name}: {way}}}")
    for value in (0.2, 0.1, 0.5, 0.3, 0.9, 0.4):
        add(study, {"optimizer.lr": 0.01}, (value,))
    svg = page_of(run, tmp_path).picture(f"Best {name} so far")
    (line,) = re.findall(r"class='line best' points='([^']*)'", svg)
    heights = [-float(place.split(",")[1]) for place in line.split()]
    rises = [after - before for before, after in pairwise(heights)]
    assert all(rise >= 0 if way == "max" else rise <= 0 for rise in rises)
    assert len(set(heights)) == len(expected)
    assert svg.count("<circle") == 6


def test_curves_are_bright_for_the_best_and_faint_for_the_stopped(tmp_path: Path) -> None:
    run, study = search(tmp_path)
    point = {"optimizer.lr": 0.01, "data.batch_size": 32}
    add(study, point, (0.9,), curve={1: 0.5, 2: 0.9})
    add(study, point, (0.8,), curve={1: 0.5, 2: 0.8})
    add(study, point, state="stopped", curve={1: 0.3, 2: 0.4})
    add(study, point, state="running", curve={1: 0.3, 2: math.nan, 3: 0.7})
    svg = page_of(run, tmp_path).picture("Learning curves")
    styles = re.findall(r"<polyline class='line (\w+)'", svg)
    assert sorted(styles) == ["best", "faint", "q2", "running"]
    assert styles[-1] == "best"  # on top of all others
    assert "trial 2, val_accuracy 40.00 % after epoch 2" in svg


def test_parallel_coordinates_stand_where_the_values_are(tmp_path: Path) -> None:
    run, study = search(tmp_path, LR, OPTIMIZER, MOMENTUM)
    add(study, {"optimizer.lr": 1e-4, "optimizer.name": "adamw"}, (0.9,))
    add(study, {"optimizer.lr": 1e-1, "optimizer.name": "sgd", "optimizer.momentum": 0.99}, (0.1,))
    svg = page_of(run, tmp_path).picture("Parallel coordinates")
    places = {
        title: [float(place.split(",")[1]) for place in line.split()]
        for line, title in re.findall(r"<polyline[^>]*points='([^']*)'><title>([^<]*)", svg)
    }
    first, second = places["trial 0, val_accuracy 90.00 %"], places["trial 1, val_accuracy 10.00 %"]
    order = [dimension.name for dimension in findings(run).space.dimensions]
    lr, name, momentum = (order.index(key) for key in ("optimizer.lr", "optimizer.name", "optimizer.momentum"))
    low, high = first[lr], second[lr]
    assert low > high  # up is smaller in SVG
    assert {first[name], second[name]} == {low, high}
    assert first[momentum] == NOT_SEARCHED
    assert second[momentum] == high
    assert "0.001" in svg  # a mark of the logarithmic axis


def test_the_key_that_decides_is_named_first(tmp_path: Path) -> None:
    run, study = search(tmp_path, LR, BATCH, DECAY)
    rng = random.Random(1)
    for _ in range(40):
        point = {**random_point(rng), "optimizer.weight_decay": rng.uniform(0, 0.2)}
        add(study, point, (quality(point),))
    (found,) = importances(findings(run))
    assert next(iter(found.shares)) == "optimizer.lr"
    first, *others = found.shares.values()
    assert first > 0.7
    assert all(share < 0.1 for share in others)
    assert sum(found.shares.values()) <= 1 + 1e-9
    assert "From the 40 complete trials." in found.words
    assert importances(findings(run))[0].shares == found.shares  # no chance in it


def test_every_decade_of_a_logarithmic_key_counts(tmp_path: Path) -> None:
    run, study = search(tmp_path, LR, DECAY)
    rng = random.Random(9)
    for _ in range(60):
        point = {"optimizer.lr": 10 ** rng.uniform(-4, -1), "optimizer.weight_decay": rng.uniform(0, 0.2)}
        add(study, point, (float(point["optimizer.lr"] > 1e-3) + 0.1 * point["optimizer.weight_decay"],))
    (found,) = importances(findings(run))
    assert found.shares["optimizer.lr"] > 0.9


def test_importances_of_stopped_trials_compare_one_epoch(tmp_path: Path) -> None:
    run, study = search(tmp_path)
    rng = random.Random(2)
    for i in range(40):
        point = random_point(rng)
        if i < 3:
            add(study, point, (quality(point),), curve={1: quality(point) - 0.2, 2: quality(point)})
        else:
            last = 2 if i < 13 else 1
            add(study, point, state="stopped", curve={e: quality(point) - 0.1 / e for e in range(1, last + 1)})
    (found,) = importances(findings(run))
    assert "after epoch 2, which 13 trials reached (only 3 are complete)" in found.words
    assert next(iter(found.shares)) == "optimizer.lr"


def test_keys_that_not_all_trials_have_are_compared_among_those(tmp_path: Path) -> None:
    run, study = search(tmp_path, LR, OPTIMIZER, MOMENTUM)
    rng = random.Random(3)
    for i in range(20):
        point: dict[str, Any] = {"optimizer.lr": 10 ** rng.uniform(-4, -1), "optimizer.name": "adamw"}
        if i % 2:
            point |= {"optimizer.name": "sgd", "optimizer.momentum": rng.uniform(0.5, 0.99)}
        add(study, point, (quality(point),))
    (found,) = importances(findings(run))
    assert set(found.shares) == {"optimizer.lr", "optimizer.name"}
    assert "compared among them: momentum 0." in found.words
    assert "(of 10 trials)" in found.words


@pytest.mark.parametrize(
    ("number", "values", "words"),
    [(0, [], "Too few trials"), (7, [0.1, 0.2], "Too few trials"), (9, [0.5], "the same value")],
)
def test_importances_need_something_to_compare(tmp_path: Path, number: int, values: list[float], words: str) -> None:
    run, study = search(tmp_path)
    rng = random.Random(4)
    for i in range(number):
        add(study, random_point(rng), (values[i % len(values)],))
    (found,) = importances(findings(run))
    assert found.shares == {}
    assert words in found.words


def test_what_optuna_cannot_compute_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no variance")

    run, study = search(tmp_path)
    fill(study, 9)
    monkeypatch.setattr(importance, "_fanova", fail)
    assert "Could not be computed: no variance" in page_of(run, tmp_path).text


def test_several_objectives_have_a_front(tmp_path: Path) -> None:
    objectives = "tune.objectives={val_accuracy: max, params: min}"
    run, study = search(tmp_path, LR, BATCH, objectives)
    rng = random.Random(5)
    for values in ((0.9, 1000.0), (0.8, 500.0), (0.7, 800.0), (0.95, 3000.0), *[(0.5, 4000.0)] * 6):
        add(study, random_point(rng), values)
    (run.path / "front").mkdir()
    for number in (0, 1, 3):
        (run.path / f"front/trial-{number:04d}.yaml").write_text("a: b")
    page = page_of(run, tmp_path)
    svg = page.picture("val_accuracy against params")
    assert svg.count("<circle class='dot best'") == 3
    assert svg.count("<circle class='dot plain'") == 7
    assert "trial 1: val_accuracy 80.00 %, params 500" in svg
    assert page.text.count("scaledl train") == 3
    labels = page.pictures()
    assert {"Importances for val_accuracy", "Importances for params"} <= set(labels)
    assert "Learning curves" not in labels, "no trial has a run here"


def test_several_objectives_have_learning_curves_from_the_runs_of_the_trials(tmp_path: Path) -> None:
    objectives = "tune.objectives={val_accuracy: max, params: min}"
    run, study = search(tmp_path, LR, objectives)
    for number in range(3):
        add(study, {"optimizer.lr": 0.01}, (0.5 + number / 10, 1000.0))
        record = run.path / f"trials/{number:04d}/metrics.jsonl"
        record.parent.mkdir(parents=True)
        lines = [{"kind": "val", "step": 10 * e, "epoch": e, "val_accuracy": 0.1 * e + number / 10} for e in range(4)]
        record.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "val", "st')
    page = page_of(run, tmp_path)
    assert "Learning curves" in page.pictures()
    assert page.picture("Learning curves").count("<polyline") >= 3


def test_a_search_of_compressions_names_the_recipe(tmp_path: Path) -> None:
    source = Run.create(tmp_path, "source", config=load_config())
    (source.path / "model").mkdir()
    (source.path / "model/weights").write_bytes(b"w")
    source.record("model")
    space = ["compress.stages=[{method: prune}]", "tune.verb=compress", "tune.space.prune.ratio={uniform: [0.1, 0.7]}"]
    config = load_config(None, space)
    run = Run.create(tmp_path, "search", kind="tune", config=config, parents=(source.as_parent(),))
    study = Study(run.path, config, space_of(config))
    add(study, {"prune.ratio": 0.3}, (0.9,))
    (run.path / "best.yaml").write_text("stages: []")
    text = page_of(run, tmp_path).text
    assert f"scaledl compress {source.path} --recipe {run.path}/best.yaml" in text
    assert f"source/{source.id}" in text


def test_a_search_in_which_nothing_has_ended(tmp_path: Path) -> None:
    run, study = search(tmp_path)
    assert "0 of 64" in page_of(run, tmp_path).text
    add(study, {"optimizer.lr": 0.01, "data.batch_size": 32}, state="running")
    add(study, {}, state="running")  # asked for, and killed before it had a point
    page = page_of(run, tmp_path)
    assert "2 of 64" in page.text
    assert "Too few trials" in page.text
    assert page.pictures() == []


def test_a_search_that_has_not_begun(tmp_path: Path) -> None:
    config = load_config(None, [LR])
    run = Run.create(tmp_path, "search", kind="tune", config=config)
    assert "No trial has begun." in page_of(run, tmp_path).text


def test_only_trials_without_a_value(tmp_path: Path) -> None:
    run, study = search(tmp_path)
    for _ in range(12):
        add(study, {"optimizer.lr": 0.01, "data.batch_size": 32}, state="nonfinite", curve={1: math.nan})
    page = page_of(run, tmp_path)
    assert page.pictures() == []
    assert "not finite" in page.text


def test_a_loss_far_off_does_not_hide_the_others(tmp_path: Path) -> None:
    clip = Clip.of(Objective("val_loss", "min"), [0.1 + 0.01 * i for i in range(30)] + [1e30])
    assert clip.low == 0.1
    assert clip.high < 2
    assert clip.inside(1e30) == clip.high
    accuracy = Clip.of(Objective("val_accuracy", "max"), [0.9, 0.8, 0.7])
    assert accuracy.bounds == (0.7, 0.9)
    run, study = search(tmp_path, LR, BATCH, "tune.objectives={val_loss: min}")
    rng = random.Random(6)
    for value in (0.1, 0.2, 0.3, 1e30, *[0.4] * 20):
        add(study, random_point(rng), (value,), curve={1: value, 2: value})
    numbers = re.findall(r"points='([^']*)'", page_of(run, tmp_path).raw)
    assert all(0 <= float(y) <= 320 for line in numbers for y in re.findall(r",([-\d.]+)", line))


def test_a_thousand_trials_are_still_a_page(tmp_path: Path) -> None:
    run, study = search(tmp_path, "trainer.epochs=100", LR, BATCH, DECAY)
    rng = random.Random(7)
    for number in range(1100):
        point = {**random_point(rng), "optimizer.weight_decay": rng.uniform(0, 0.2)}
        curve = {epoch: quality(point) - rng.random() / epoch for epoch in range(1, 101)}
        if number == 700:
            add(study, {**point, "optimizer.lr": 0.01}, (0.99,), curve=curve)
        else:
            add(study, point, (curve[100],), curve=curve, error="x" * 2000)
    page = page_of(run, tmp_path)
    assert len(page.raw) < 1.2e6
    assert len(page.picture("Learning curves")) < 5e5
    assert "1000 trials, best first; 100 more are in the journal only" in page.text
    assert "200 of them" in page.text
    for label in ("Learning curves", "Parallel coordinates", "Best val_accuracy so far"):
        assert len(re.findall("class='line best'", page.picture(label))) == 1


def test_user_texts_are_shown_and_never_run(tmp_path: Path) -> None:
    run, study = search(tmp_path, LR, f"tune.space.data.stream.cache={json.dumps([PAYLOAD, 'b'])}")
    rng = random.Random(8)
    for _ in range(8):
        point = {"optimizer.lr": 10 ** rng.uniform(-4, -1), "data.stream.cache": rng.choice([PAYLOAD, "b"])}
        add(study, point, (rng.random(),), curve={1: 0.5}, host=PAYLOAD)
    add(study, {"optimizer.lr": 0.01, "data.stream.cache": PAYLOAD}, state="failed", error=PAYLOAD)
    run.finish("failed", error=PAYLOAD)
    page = page_of(run, tmp_path)
    assert "script" not in {name for name, _ in page.tags}
    assert "<script" not in page.raw
    assert page.text.count(PAYLOAD) >= 11  # hosts, points, errors


def test_what_appears_under_the_pointer_is_escaped() -> None:
    frame = Frame.around([(0, 0), (1, 1)])
    for drawn in (frame.dot((0, 0), "best", text=PAYLOAD), frame.line([(0, 0), (1, 1)], "best", text=PAYLOAD)):
        assert Page(drawn).text == PAYLOAD


def test_long_numbers_find_room_beside_the_axis() -> None:
    svg = Frame.around([(0, 0), (1, 400_000)]).svg([], title="t", x_label="x", y_label="y")
    assert "400 k" in svg
    assert "400000" not in svg


def test_a_line_that_is_being_written_is_no_damage(tmp_path: Path) -> None:
    run, study = search(tmp_path)
    fill(study, 3)
    with study.path.open("a") as file:
        file.write('{"op_code": 4, "worker')
    assert "3 of 64" in page_of(run, tmp_path).text
    assert study.path.read_text().endswith("worker")  # whoever only looks changes nothing


@pytest.mark.parametrize(
    "content", ["", "nothing\n", '{"op_code": 99}\n{}\n', "[]\n[]\n", '{"op_code": 4}\n{"a": 1}\n']
)
def test_a_journal_that_cannot_be_read_is_named(tmp_path: Path, content: str) -> None:
    run, study = search(tmp_path)
    study.path.write_text(content)
    text = page_of(run, tmp_path).text
    assert "study.journal" in text
    assert "loguniform" in text  # the config


def test_without_the_extra_the_page_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str, extra: str) -> None:
        raise UsageError(f"{module} is not installed; install it with: pip install 'scaledl[{extra}]'")

    run, study = search(tmp_path)
    fill(study, 3)
    monkeypatch.setattr(study_module, "require_extra", missing)
    page = page_of(run, tmp_path)
    assert "pip install 'scaledl[tune]'" in page.text
    assert page.pictures() == []
    assert "tpe" in page.text


def test_a_page_needs_neither_torch_nor_optuna_to_be_imported() -> None:
    code = "import sys, scaledl.report; print(sorted({'torch', 'optuna', 'ray', 'sklearn'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_verb_takes_searches_and_trials(tmp_path: Path) -> None:
    run, study = search(tmp_path)
    fill(study, 2)
    trial = run.nested("trials/0000", kind="trial", config=run.config)
    for path in (run.path, trial.path):
        command = [sys.executable, "-m", "scaledl.cli", "report", str(path), "--root", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert (path / "report.html").is_file()
