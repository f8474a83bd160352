"""`scaledl tune` with bad input: one line that says what is allowed, exit code 2, and nothing on the disk."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.unit.tune.fake_executor import Executor, open_search_of, search_config

from scaledl import api
from scaledl.cli import main
from scaledl.config import Config
from scaledl.errors import UsageError
from scaledl.run import Run

pytestmark = pytest.mark.unit

TRIALS = "--trials: got {!r}; allowed: a whole number from 1 to 1000000"
ADDRESS = "--address: got {!r}; allowed: HOST:PORT of the head, as `ray start --head` prints it, or auto"
LR = "tune.space.optimizer.lr={loguniform: [1e-4, 1e-1]}"
SEARCHES = "allowed: one of auto, random, grid, qmc, tpe, gp, cmaes, nsga2"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    return tmp_path


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    try:
        code = main(["tune", *arguments])
    except SystemExit as stop:  # of argparse
        code = int(stop.code or 0)
    said = capsys.readouterr()
    assert code == 2
    lines = said.err.splitlines()
    assert len([line for line in lines if not line.startswith("  ")]) == 1
    return said.err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        *((["--trials", text], TRIALS.format(text)) for text in ("0", "64.5", "1e3", "abc", "", "1000001", "٣")),
        (["--trials=-1"], TRIALS.format("-1")),
        (["tune.trials=0"], "tune.trials (command line): got 0; allowed: a whole number from 1 to 1000000"),
        (["--search", "tp"], f"tune.search (command line): got 'tp'; {SEARCHES}; did you mean 'tpe'?"),
        (["--search", "xyzzy"], f"tune.search (command line): got 'xyzzy'; {SEARCHES}"),
        (["--scheduler", "ash"], "tune.scheduler (command line): got 'ash'; allowed: one of auto, none, asha"),
        (["--verb", "trian"], "tune.verb (command line): got 'trian'; allowed: one of train, compress; did you mean"),
        (["--resume"], "--resume: no unfinished search in runs/; `scaledl runs` lists what is there"),
        (["--resume", "s.yaml"], "--resume: a search goes on with its own config; leave s.yaml out"),
        (["--resume", "nothing"], "no run 'nothing'"),
        (["--show"], "--show: no search in runs/; begin one: scaledl tune --trials 64"),
        (["--show", "nothing"], "no run 'nothing'"),
        *((["--address", text], ADDRESS.format(text)) for text in ("host", ":1", "host:", "host:x", "ray://h:1", "")),
        (["--warm-start", "nothing"], "no run 'nothing'"),
        (["--method", "prune"], "--method: takes part in --verb compress only"),
        (["tune.verb=compress"], "tune.verb: compress in a config needs a run: scaledl tune RUN --verb compress"),
        (["--verb", "compress"], "no run yet under runs"),
        (["--search", "grid"], "tune.space.optimizer.lr: a range of real numbers has no grid"),
        (["--scheduler", "pbt", "tune.space.data.batch_size=[1, 2]"], "tune.space.data.batch_size: cannot change"),
        (["tune.space.optimizer.lr=3"], "tune.space.optimizer.lr (command line): got 3; allowed: a distribution"),
        (["tune.space.run.id=[a, b]"], "tune.space.run.id (command line): run.id cannot be searched"),
        (["nothing.yaml"], "nothing.yaml: no such file"),
        (["--trails", "3"], "did you mean '--trials'?"),
    ],
)
def test_bad_input(arguments: list[str], part: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert part in refused(arguments, capsys)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("module", ["ray", "optuna"])
def test_without_the_extra_it_is_named(
    module: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec

    def missing(name: str, package: str | None = None) -> Any:
        return None if name == module else find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", missing)
    assert refused([LR], capsys) == f"error: {module} is not installed; install it with: pip install 'scaledl[tune]'\n"
    with pytest.raises(UsageError, match=rf"{module} is not installed; .*scaledl\[tune\]"):
        api.tune(Config())
    assert list(folder.iterdir()) == []


def test_a_training_is_no_search(capsys: pytest.CaptureFixture[str]) -> None:
    Run.create("runs", "a", "1", kind="train", config=Config()).finish("preempted")
    assert "run a/1 is a train run; tune is needed here" in refused(["--show", "a/1"], capsys)
    assert "run a/1 is a train run; tune is needed here" in refused(["--resume", "a/1"], capsys)
    assert "--resume: no unfinished search in runs/" in refused(["--resume"], capsys)


def ended(name: str, **tune: Any) -> Run:
    search = Executor(open_search_of(search_config(Path("runs"), trials=3, search="random", **tune))).run()
    search.run.finish("complete", trials=3.0)
    shutil.move(search.run.path, search.run.path.with_name(name))
    return Run.open(search.run.path.with_name(name))


def test_an_earlier_search_for_something_else_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    run = ended("loss", objectives={"val_loss": "min"})
    said = refused([LR, "--warm-start", str(run.path)], capsys)
    assert f"--warm-start: {run.path} was a search of val_loss min, this is one of val_accuracy max" in said
    assert len(list(Path("runs").glob("*/*/manifest.json"))) == 1


def test_the_id_of_another_search(capsys: pytest.CaptureFixture[str]) -> None:
    ended("y")
    given = ["--name", "s", "--id", "y", "trainer.epochs=9", "tune.search=random"]
    assert "changed: tune.space.optimizer.lr" in refused([*given, LR.replace("1e-1", "1")], capsys)
    assert "was a" not in refused([*given, LR, "tune.scheduler=median"], capsys)


def test_a_search_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    ended("y")
    assert main(["tune", "--show", "s/y"]) == 0
    text = capsys.readouterr().out
    assert "trials   3 of 3: " in text
    assert "best     trial " in text
