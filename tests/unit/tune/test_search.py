"""The search itself: what comes next, who is stopped, what stays, and going on from any moment."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.tune.fake_executor import EPOCHS, Executor, Killed, curve, open_search_of, quality, search_config

from scaledl.config import Config, replace
from scaledl.tune.search import Decision, NoMore, Outcome, Search, perturbed
from scaledl.tune.study import JOURNAL, Trial

pytestmark = pytest.mark.unit

SPACE = {
    "optimizer.lr": {"loguniform": [1e-4, 1e-1]},
    "task.label_smoothing": {"quniform": [0, 0.4, 0.1]},
    "optimizer.betas": [[0.9, 0.999], [0.9, 0.99]],
}
ODD = {"data.batch_size": {"int": [64, 128]}}  # only every second can be split in two


def history(search: Search) -> list[tuple[Any, ...]]:
    """What was decided."""
    return [(t.number, t.point, t.state, t.epochs, t.parent, t.values, dict(t.curve)) for t in search.study.own()]


def check_whole(search: Search, count: int) -> list[Trial]:
    """Every trial ended, once, under numbers without a gap."""
    trials = search.study.own()
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert len(trials) <= count
    assert {trial.state for trial in trials} <= {"complete", "stopped", "invalid"}
    assert search.num_ended == len(trials)
    assert not search.live
    assert search.is_over
    return trials


# Who is stopped


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("rule", ["asha", "hyperband", "median"])
def test_bad_trials_are_stopped_and_the_best_never(tmp_path: Path, rule: str, slots: int) -> None:
    config = search_config(tmp_path, trials=20, search="random", scheduler=rule)
    search = Executor(open_search_of(config), slots).run()
    trials = check_whole(search, 20)
    assert len(trials) == 20
    stopped = [trial for trial in trials if trial.state == "stopped"]
    assert len(stopped) >= 5
    assert all(config.tune.min_epochs <= trial.epochs < EPOCHS and not trial.values for trial in stopped)
    by_quality = max(trials, key=lambda trial: quality(search.space.apply(config, trial.point)))
    assert by_quality.state == "complete"
    assert [trial.number for trial in search.study.best()] == [by_quality.number]
    assert search.best_now == search.study.best()[0]


def test_nobody_is_stopped_without_a_rule_or_before_the_least_epochs(tmp_path: Path) -> None:
    config = search_config(tmp_path, trials=8, search="random", scheduler="none")
    assert all(t.state == "complete" for t in check_whole(Executor(open_search_of(config)).run(), 8))
    later = search_config(tmp_path / "b", trials=12, search="random", scheduler="median", min_epochs=4)
    epochs = [t.epochs for t in Executor(open_search_of(later), 3).run().study.own() if t.state == "stopped"]
    assert epochs
    assert min(epochs) >= 4


def test_a_trial_that_has_reached_its_own_last_epoch_is_complete(tmp_path: Path) -> None:
    space = {**SPACE, "trainer.epochs": [3, EPOCHS]}  # 3 is a rung of ASHA
    config = search_config(tmp_path, space, trials=20, search="random", scheduler="asha")
    search = Executor(open_search_of(config)).run()
    ended = [t for t in search.study.own() if t.point["trainer.epochs"] == t.epochs]
    assert ended
    assert {trial.state for trial in ended} == {"complete"}


def test_several_objectives_make_a_front_and_stop_nobody(tmp_path: Path) -> None:
    objectives = {"val_accuracy": "max", "params": "min"}

    def metrics(config: Config, epoch: int) -> dict[str, float]:
        return {**curve(config, epoch), "params": config.optimizer.lr}

    config = search_config(tmp_path, trials=12, search="random", objectives=objectives)
    search = Executor(open_search_of(config), metrics_fn=metrics).run()
    trials = check_whole(search, 12)
    assert {trial.state for trial in trials} == {"complete"}
    front = search.study.best()
    assert 1 <= len(front) < 12
    best = max(trials, key=lambda trial: trial.values[0])
    smallest = min(trials, key=lambda trial: trial.values[1])
    assert {best.number, smallest.number} <= {trial.number for trial in front}


# Population based training


@pytest.mark.parametrize("slots", [1, 2, 8, 11])
def test_a_population_replaces_its_worst(tmp_path: Path, slots: int) -> None:
    config = search_config(tmp_path, trials=24, search="random", scheduler="pbt", population=8)
    executor = Executor(open_search_of(config), slots)
    search = executor.run()
    trials = check_whole(search, 24)
    assert len(trials) == 24
    complete = [trial for trial in trials if trial.state == "complete"]
    assert len(complete) == 8
    assert {trial.epochs for trial in complete} == {EPOCHS}
    children = [trial for trial in trials if trial.parent is not None]
    assert len(children) == 16
    for child in children:
        parent = trials[child.parent or 0]
        assert parent.number < child.number
        factor = child.point["optimizer.lr"] / parent.point["optimizer.lr"]
        assert math.isclose(factor, 0.8) or math.isclose(factor, 1.25) or child.point["optimizer.lr"] in (1e-4, 1e-1)
    replaced = [trial for trial in trials if trial.state == "stopped"]
    assert all(trial.error.startswith("replaced by a trial that goes on from trial ") for trial in replaced)
    # after the first exchange all slots are used
    assert max(executor.most_running[epoch] for epoch in range(2, EPOCHS)) == min(slots, 8)


def test_a_population_in_larger_steps(tmp_path: Path) -> None:
    config = search_config(tmp_path, trials=12, search="random", scheduler="pbt", population=4, perturb_epochs=4)
    trials = check_whole(Executor(open_search_of(config), 4).run(), 12)
    assert {trial.epochs for trial in trials if trial.state == "stopped"} <= {4, 8}
    assert 4 < len(trials) < 12


def test_a_budget_below_the_population(tmp_path: Path) -> None:
    config = search_config(tmp_path, trials=3, search="random", scheduler="pbt", population=8)
    trials = check_whole(Executor(open_search_of(config), 2).run(), 3)
    assert [trial.state for trial in trials] == ["complete"] * 3


def test_a_small_population_has_exchanges_too(tmp_path: Path) -> None:
    config = search_config(tmp_path, trials=6, search="random", scheduler="pbt", population=2)
    trials = check_whole(Executor(open_search_of(config), 2).run(), 6)
    assert len(trials) == 6


def test_weights_of_a_population_are_there_until_the_end(tmp_path: Path) -> None:
    config = search_config(tmp_path, trials=12, search="random", scheduler="pbt", population=4)
    search = Executor(open_search_of(config), 4).run()
    search.close()
    assert models(search) == {trial.number for trial in search.study.best()}
    assert not list(search.run.path.glob("trials/*/checkpoints"))


def test_a_perturbed_point_stays_in_the_space(tmp_path: Path) -> None:
    space = {**SPACE, "data.augment.crop": {"int": [0, 4]}, "optimizer.weight_decay": {"quniform": [0.1, 0.9, 0.2]}}
    search = open_search_of(search_config(tmp_path, space))
    start = {
        **{"optimizer.lr": 0.09, "task.label_smoothing": 0.3, "data.augment.crop": 4},
        **{"optimizer.betas": [0.9, 0.99], "optimizer.weight_decay": 0.9},
    }
    seen = set()
    for seed in range(30):
        point = perturbed(start, search.space, seed)
        assert point.keys() == start.keys()
        assert all(search.space.by_name[name].holds(value) for name, value in point.items())
        seen.add(str(point))
    assert len(seen) > 4
    assert perturbed(start, search.space, 7) == perturbed(start, search.space, 7)


# When it ends early


@pytest.mark.parametrize("rule", ["none", "asha", "pbt"])
def test_a_target_ends_the_search(tmp_path: Path, rule: str) -> None:
    options = {"search": "random", "scheduler": rule, "population": 4}
    config = search_config(tmp_path, trials=40, target=0.75, **options)
    search = Executor(open_search_of(config)).run()
    assert search.stopping.startswith("tune.target: trial ")
    assert len(search.study.own()) < 40
    assert all(trial.state != "running" for trial in search.study.own())
    again = open_search_of(config)
    assert again.is_over
    with pytest.raises(NoMore):
        again.next()


def test_a_target_for_what_is_known_at_the_end_only(tmp_path: Path) -> None:
    config = search_config(tmp_path, trials=9, search="random", objectives={"params": "min"}, target=50.0)
    search = Executor(open_search_of(config), metrics_fn=lambda config, epoch: {"params": 40.0}).run()
    assert search.stopping == "tune.target: trial 0 reached params 40"
    assert len(search.study.own()) == 1


def test_patience_counts_trials_without_a_better_one(tmp_path: Path) -> None:
    config = search_config(tmp_path, trials=60, search="random", scheduler="none", patience=5)
    search = Executor(open_search_of(config)).run()
    trials = search.study.own()
    assert search.stopping == "tune.patience: 5 trials in a row brought nothing better"
    assert len(trials) == search.study.best()[0].number + 6 < 60


def test_hours_count_over_all_starts(tmp_path: Path) -> None:
    search = open_search_of(search_config(tmp_path, trials=9, hours=1.0, scheduler="none"))
    assert search.next() is not None
    search.before_seconds = 3600.0
    with pytest.raises(NoMore):
        search.next()
    assert search.stopping == "tune.hours: 1 h are over"


def test_what_is_in_work_goes_on_after_the_hours(tmp_path: Path) -> None:
    config = search_config(tmp_path, trials=9, hours=1.0, search="random", scheduler="pbt", population=4)
    search = open_search_of(config)
    with pytest.raises(Killed):
        Executor(search, 4, events=12).run()
    search = open_search_of(config)
    search.before_seconds = 4000.0
    Executor(search, 4).run()
    assert [trial.state for trial in search.study.own()] == ["complete"] * 4


# What goes wrong


def started(search: Search) -> int:
    assignment = search.next()
    assert assignment is not None
    search.started(assignment.number, "here")
    return assignment.number


def test_a_trial_that_died_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = open_search_of(search_config(tmp_path, trials=2, scheduler="asha"))
    number = started(search)
    assert search.report(number, 1, {"val_accuracy": 0.3}) is Decision.GO
    search.died(number, "its process died")
    search.started(number, "there")
    assert search.report(number, 1, {"val_accuracy": 0.3}) is Decision.GO  # once more, from the checkpoint
    search.end(number, Outcome("complete", {"val_accuracy": 0.5}, EPOCHS))
    trial = search.study.own()[number]
    assert (trial.state, trial.attempts, trial.host, dict(trial.curve)) == ("complete", 2, "there", {1: 0.3})
    assert "trial 0: its process died; it starts again from its last checkpoint (attempt 2)" in capsys.readouterr().err


def test_a_trial_that_died_too_often_is_lost_and_the_search_goes_on(tmp_path: Path) -> None:
    search = open_search_of(search_config(tmp_path, trials=2, scheduler="none"))
    number = started(search)
    search.report(number, 3, {"val_accuracy": 0.3})
    search.lost(number, "its process died")
    trial = search.study.own()[number]
    assert (trial.state, trial.error, trial.epochs, trial.values) == ("failed", "its process died", 3, ())
    assert started(search) == 1
    assert search.hopeless() is None


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_a_figure_that_is_not_finite(tmp_path: Path, value: float | None) -> None:
    search = open_search_of(search_config(tmp_path, trials=2, scheduler="asha"))
    number = started(search)
    metrics = {} if value is None else {"val_accuracy": value}
    assert search.report(number, 1, metrics) is Decision.GO
    search.end(number, Outcome("complete", {**metrics, "val_loss": 1.0}, EPOCHS))
    trial = search.study.own()[number]
    assert (trial.state, trial.error, trial.values) == ("nonfinite", "val_accuracy is not a finite number", ())
    assert dict(trial.curve) == {}
    assert trial.extra == {"val_loss": 1.0}
    assert search.study.best() == []


def test_a_point_that_is_no_config_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = replace(search_config(tmp_path, ODD, trials=12, search="random"), {"trainer.accumulate": 2})
    search = Executor(open_search_of(config)).run()
    trials = check_whole(search, 12)
    assert len(trials) == 12
    for trial in trials:
        assert (trial.state == "invalid") == (trial.point["data.batch_size"] % 2 == 1)
    assert "is no valid config and was left out: config error: trainer.accumulate" in capsys.readouterr().err


def test_a_space_without_a_valid_config_is_given_up(tmp_path: Path) -> None:
    config = search_config(tmp_path, ODD, trials=500, search="random", default_first=False)
    search = open_search_of(replace(config, {"trainer.accumulate": 64}))
    with pytest.raises(NoMore):
        search.next()
    assert len(search.study.own()) == search.num_ended == 4
    assert (search.hopeless() or "").startswith("the first 4 trials all failed, the last one with: config error: train")


def test_it_is_hopeless_when_all_of_the_first_trials_fail(tmp_path: Path) -> None:
    search = open_search_of(search_config(tmp_path, trials=9, scheduler="none"))
    for i in range(4):
        assert search.hopeless() is None
        search.end(started(search), Outcome("failed", {}, 0, f"no data {i}"))
    assert search.hopeless() == "the first 4 trials all failed, the last one with: no data 3"


def test_one_that_worked_is_hope(tmp_path: Path) -> None:
    search = open_search_of(search_config(tmp_path, trials=9, scheduler="none"))
    search.end(started(search), Outcome("complete", {"val_accuracy": 0.1}, EPOCHS))
    for _ in range(5):
        search.end(started(search), Outcome("nonfinite", {}, 0, "nan"))
    assert search.hopeless() is None


# Going on from any moment

RULES: dict[str, dict[str, Any]] = {
    "asha": {"search": "tpe", "scheduler": "asha", "trials": 9},
    "pbt": {"search": "random", "scheduler": "pbt", "population": 3, "trials": 9},
    "patience": {"search": "random", "scheduler": "median", "patience": 3, "trials": 9},
    "grid": {"search": "grid", "scheduler": "none"},
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Config, Search, int]]:
    """Of a rule the search that nothing stopped, and how many events it took."""
    made: dict[str, tuple[Config, Search, int]] = {}

    def run(rule: str) -> tuple[Config, Search, int]:
        if rule not in made:
            config = config_for(rule, tmp_path_factory.mktemp(rule))
            executor = Executor(open_search_of(config, count_for(rule)), events=10_000)
            executor.run()
            made[rule] = config, executor.search, 10_000 - (executor.left or 0)
        return made[rule]

    return run


def config_for(rule: str, folder: Path) -> Config:
    space = (
        {"optimizer.betas": SPACE["optimizer.betas"], "task.label_smoothing": [0.0, 0.1]} if rule == "grid" else SPACE
    )
    return search_config(folder, space, **RULES[rule])


def count_for(rule: str) -> int:
    return int(RULES[rule].get("trials", 4))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("share", [0.02, 0.2, 0.35, 0.5, 0.65, 0.8, 0.97])
def test_a_search_killed_at_any_event_decides_the_same(
    tmp_path: Path, uninterrupted: Callable[[str], tuple[Config, Search, int]], rule: str, share: float
) -> None:
    _, whole, events = uninterrupted(rule)
    config = config_for(rule, tmp_path)
    with pytest.raises(Killed):
        Executor(open_search_of(config, count_for(rule)), events=max(1, int(share * events))).run()
    search = Executor(open_search_of(config, count_for(rule))).run()
    assert history(search) == history(whole)
    assert search.stopping == whole.stopping
    check_whole(search, count_for(rule))


@pytest.mark.parametrize("slots", [2, 8])
@pytest.mark.parametrize("rule", ["asha", "pbt"])
def test_a_search_on_several_slots_is_killed_again_and_again(tmp_path: Path, rule: str, slots: int) -> None:
    config = config_for(rule, tmp_path)
    for events in (3, 1, 7, 12, 5, 14):
        with pytest.raises(Killed):
            Executor(open_search_of(config), slots, events=events).run()
    trials = check_whole(Executor(open_search_of(config), slots).run(), 9)
    assert len(trials) == 9
    assert all(trial.state != "complete" or trial.epochs == EPOCHS for trial in trials)


@pytest.mark.parametrize("rule", ["asha", "pbt"])
def test_a_journal_that_ends_at_any_line_is_gone_on_with(
    tmp_path: Path, uninterrupted: Callable[[str], tuple[Config, Search, int]], rule: str
) -> None:
    _, whole, _ = uninterrupted(rule)
    lines = whole.study.path.read_bytes().splitlines(keepends=True)
    for kept in range(0, len(lines), max(1, len(lines) // 14)):
        config = config_for(rule, tmp_path / str(kept))
        run = open_search_of(config).run
        (run.path / JOURNAL).write_bytes(b"".join(lines[:kept]))
        if (whole.run.path / "trials").exists():
            shutil.copytree(whole.run.path / "trials", run.path / "trials")
        for checkpoint in run.path.glob("trials/*/checkpoints"):
            shutil.rmtree(checkpoint)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Executor, "_start", _start_where_the_journal_is)
            trials = check_whole(Executor(open_search_of(config)).run(), 9)
        assert len(trials) == 9
        assert all(set(trial.point) == set(SPACE) for trial in trials)
        assert all(trial.state != "complete" or len(trial.values) == 1 for trial in trials)


def _start_where_the_journal_is(executor: Executor, assignment: Any) -> None:
    """A checkpoint is never behind what was reported by more than one epoch."""
    curve_so_far = executor.search.study.own()[assignment.number].curve
    checkpoint = executor._checkpoint(assignment.number)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if not checkpoint.exists():
        checkpoint.write_text(str(max(0, max(curve_so_far, default=0) - 1)))
    executor.search.started(assignment.number, "here")


def test_more_trials_may_be_asked_for_later(tmp_path: Path) -> None:
    few = Executor(open_search_of(search_config(tmp_path, trials=4, search="random", scheduler="none"))).run()
    before = history(few)
    more = Executor(open_search_of(search_config(tmp_path, trials=7, search="random", scheduler="none"))).run()
    assert history(more)[:4] == before
    assert len(check_whole(more, 7)) == 7


# What stays


def models(search: Search) -> set[int]:
    return {int(folder.parent.name) for folder in search.run.path.glob("trials/*/model")}


@pytest.mark.parametrize("rule", ["none", "asha"])
@pytest.mark.parametrize("keep", ["best", "all", "none"])
def test_weights_that_stay(tmp_path: Path, keep: str, rule: str) -> None:
    config = search_config(tmp_path, trials=8, search="random", scheduler=rule, keep=keep)
    search = Executor(open_search_of(config), 2).run()
    best = {trial.number for trial in search.study.best()}
    complete = {trial.number for trial in search.study.own() if trial.state == "complete"}
    for _ in range(2):
        assert models(search) == {"best": best, "all": complete, "none": set()}[keep]
        assert not list(search.run.path.glob("trials/*/checkpoints"))
        assert len(list(search.run.path.glob("trials/*"))) == 8  # the records stay
        search.close()


def test_seconds_of_all_starts_are_counted(tmp_path: Path) -> None:
    config = search_config(tmp_path, trials=1, scheduler="none")
    search = open_search_of(config)
    number = started(search)
    live = search.live[number]
    live._since = (live._since or 0) - 100
    search.died(number, "gone")
    assert 100 <= search.busy_seconds < 110
    again = open_search_of(config)
    assert started(again) == number
    again.end(number, Outcome("complete", {"val_accuracy": 0.5}, EPOCHS))
    trial = again.study.own()[number]
    assert 100 <= trial.seconds < 110
    assert again.busy_seconds < 10
    assert again.summary() == "1 of 1 trials ended, the best: val_accuracy 0.5"
