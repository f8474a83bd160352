"""A search's directory: which search is meant, what may change between two starts, and the config that comes of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.tune.fake_executor import Executor, open_search_of, search_config

from scaledl.config import Config, changed_keys, load_config, replace
from scaledl.errors import UsageError
from scaledl.run import Run
from scaledl.tune.directory import find_search, open_search, unfinished_search, write_best
from scaledl.tune.records import trial_folder
from scaledl.tune.search import trial_base

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


def config_with(tmp_path: Path, changes: dict[str, Any] | None = None, **tune: Any) -> Config:
    return replace(search_config(tmp_path / "runs", trials=4, **tune), changes or {})


# Opening


def test_the_same_search_is_opened_again(tmp_path: Path) -> None:
    run = open_search(config_with(tmp_path))
    assert (run.kind, run.path) == ("tune", tmp_path / "runs/s/x")
    assert open_search(config_with(tmp_path)) == run


def test_a_search_without_an_id_is_a_new_one(tmp_path: Path) -> None:
    config = config_with(tmp_path, {"run.id": None, "run.name": None})
    runs = {open_search(config).path for _ in range(2)}
    assert len(runs) == 2
    assert {path.parent.name for path in runs} == {"resnet-digits"}


@pytest.mark.parametrize(
    "tune",
    [
        *({"trials": 9}, {"patience": 3}, {"target": 0.9}, {"hours": 2.0}, {"retries": 0}),
        *({"cpus": 2.0}, {"gpus": 1.0}, {"keep": "all"}),
    ],
)
def test_what_may_change(tmp_path: Path, tune: dict[str, Any]) -> None:
    open_search(config_with(tmp_path))
    changed = replace(config_with(tmp_path), {f"tune.{key}": value for key, value in tune.items()})
    run = open_search(changed)
    assert run.config.tune == changed.tune
    assert Run.open(run.path).config == changed


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"tune.space": {"optimizer.lr": {"loguniform": [1e-4, 1.0]}}}, "tune.space.optimizer.lr.loguniform"),
        ({"tune.space": {"optimizer.lr": [0.1, 0.2]}}, "tune.space.optimizer.lr"),
        ({"tune.search": "random"}, "tune.search (was 'auto', is 'random')"),
        ({"tune.scheduler": "pbt"}, "tune.scheduler"),
        ({"tune.objectives": {"val_loss": "min"}}, "tune.objectives.val_loss (was None, is 'min')"),
        ({"trainer.epochs": 10}, "trainer.epochs (was 9, is 10)"),
        ({"model.width": 8}, "model.width"),
        ({"run.seed": 1}, "run.seed"),
    ],
)
def test_another_search_is_refused(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    run = open_search(config_with(tmp_path))
    before = (run.path / "config.yaml").read_bytes()
    with pytest.raises(UsageError) as caught:
        open_search(replace(config_with(tmp_path), changes))
    text = str(caught.value)
    assert text.startswith(f"{run.path} is a search of another space or with other settings; changed: ")
    assert key in text
    assert f"--warm-start {run.path}" in text
    assert (run.path / "config.yaml").read_bytes() == before


def test_a_space_that_is_written_in_another_way_is_the_same(tmp_path: Path) -> None:
    open_search(config_with(tmp_path))
    nested = {"optimizer": {"lr": {"loguniform": [1e-4, 1e-1]}}}
    assert open_search(replace(config_with(tmp_path), {"tune.space": nested})).path.name == "x"


def test_the_id_of_a_training_is_refused(tmp_path: Path) -> None:
    config = config_with(tmp_path)
    Run.create(config.run.root, "s", "x", kind="train", config=config)
    with pytest.raises(UsageError, match="run s/x exists and is a train run, not a tune run"):
        open_search(config)


# Finding


def make(root: Path, name: str, id: str, kind: str, status: str | None) -> Run:
    run = Run.create(root, name, id, kind=kind, config=Config())
    if status:
        run.finish(status)
    return run


def test_the_newest_unfinished_search(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    with pytest.raises(UsageError, match=r"--resume: no unfinished search in .*runs/; `scaledl runs` lists"):
        unfinished_search(None, root, None)
    make(root, "a", "1", "train", "preempted")
    make(root, "a", "2", "tune", "complete")
    with pytest.raises(UsageError, match="no unfinished search of a in"):
        unfinished_search(None, root, "a")
    stopped = make(root, "b", "3", "tune", "preempted")
    make(root, "a", "4", "tune", "failed")
    assert unfinished_search(None, root, None).id == "4"
    assert unfinished_search(None, root, "b") == stopped
    assert unfinished_search("a/2", root, None).id == "2"
    with pytest.raises(UsageError, match="run a/1 is a train run; tune is needed here"):
        unfinished_search("a/1", root, None)


def test_the_search_that_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "runs"
    with pytest.raises(UsageError, match=r"--show: no search in .*runs/; begin one: scaledl tune --trials 64"):
        find_search(None, root)
    run = make(root, "a", "1", "tune", None)
    with pytest.raises(UsageError, match=r"a/1 has not begun: no study.journal in it yet"):
        find_search("a/1", root)
    (run.path / "study.journal").touch()
    make(root, "a", "2", "train", "complete")
    assert find_search(None, root) == find_search("a/1", root) == run
    assert f"no search given: showing the newest, {run.path}" in capsys.readouterr().out
    with pytest.raises(UsageError, match="run a/2 is a train run; tune is needed here"):
        find_search("a/2", root)


# What comes of it

TEXTS = {"data.stream.cache": "0o17", "run.name": "1e5"}  # YAML 1.1 and 1.2 do not agree on them


@pytest.mark.parametrize("texts", [{}, TEXTS, {"data.stream.cache": "no", "run.name": "2026-11-26"}])
def test_the_best_config_is_the_trials_own(tmp_path: Path, texts: dict[str, str]) -> None:
    space = {
        "optimizer.lr": {"loguniform": [1e-5, 1e-3]},
        "model.family": ["mlp", "resnet"],
        "model.hidden": {"choice": [[4], [8, 4]], "when": {"model.family": "mlp"}},
        "optimizer.betas": [[0.9, 0.999], [0.8, 0.9]],
    }
    config = replace(search_config(tmp_path, space, trials=5, search="random", scheduler="none"), texts)
    search = open_search_of(config)
    Executor(search).run()
    (path,) = write_best(search)
    assert path == search.run.path / "best.yaml"
    best = search.study.best()[0]
    assert path.read_text().startswith(
        f"# val_accuracy {best.values[0]:.6g}: trial {best.number} of {search.run.path}\n"
    )
    found = load_config(path)
    expected = search.space.apply(trial_base(config), best.point)
    assert set(changed_keys(expected, found)) <= {"run.root", "run.id"}
    assert not {"tune"} & set(yaml.safe_load(path.read_text()))
    assert (search.run.path / trial_folder(best.number)).is_dir()


def test_a_front_has_a_config_for_each(tmp_path: Path) -> None:
    objectives = {"val_accuracy": "max", "val_loss": "min"}
    config = search_config(tmp_path, trials=4, search="random", objectives=objectives)
    search = open_search_of(config)
    Executor(search, metrics_fn=lambda config, epoch: dict.fromkeys(objectives, config.optimizer.lr)).run()
    paths = write_best(search)
    assert [path.name for path in paths] == [f"trial-000{i}.yaml" for i in range(4)]
    assert {path.parent for path in paths} == {search.run.path / "front"}
    for path, trial in zip(paths, search.study.best(), strict=True):
        assert load_config(path).optimizer.lr == trial.point["optimizer.lr"]


def test_no_config_of_a_search_without_a_result(tmp_path: Path) -> None:
    search = open_search_of(search_config(tmp_path))
    assert write_best(search) == []
