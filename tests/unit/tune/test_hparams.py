"""What other programs see of a search: TensorBoard, and plain Optuna as its dashboard uses it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from scaledl.config import load_config, space_of
from scaledl.run.events import EventFile
from scaledl.tune.hparams import figures, write_hparams
from scaledl.tune.study import JOURNAL, Study, Trial

pytestmark = pytest.mark.unit

OBJECTIVES = {"val_accuracy": "max"}
TRIALS = [
    Trial(0, "complete", {"optimizer.lr": 0.1, "flag": True, "hidden": [32, 64]}, (0.9,), {1: 0.5, 2: 0.9}, 2, 3.0),
    Trial(1, "stopped", {"optimizer.lr": 0.2, "flag": False, "momentum": 0.9}, (), {1: 0.3}, 1, 1.0),
    Trial(2, "nonfinite", {"optimizer.lr": 5, "flag": False, "hidden": None}, (), {}, 0, 1.0, error="NaN"),
]


def written(root: Path, trials: list[Trial] = TRIALS, objectives: dict[str, str] = OBJECTIVES) -> Path:
    """The folder that TensorBoard is given; each trial has a file of its training there already."""
    for trial in trials:
        events = EventFile(root / f"trials/{trial.number:04d}/tensorboard", purge_step=1)
        events.add_scalars(1, {"val/accuracy": 0.5})
        assert write_hparams(root, trial, objectives) is not None
    return root / "trials"


def plugin(logdir: Path) -> tuple[Any, Any]:
    """Experiment and session groups, as the plugin of the HPARAMS tab answers."""
    from tensorboard import context
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import api_pb2, backend_context, get_experiment, list_session_groups

    multiplexer = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(logdir))
    backend = backend_context.Context(TBContext(data_provider=provider))
    ask = api_pb2.GetExperimentRequest(include_metrics=True)
    experiment = get_experiment.Handler(context.RequestContext(), backend, "", ask).run()
    states = [api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE, api_pb2.STATUS_RUNNING]
    which = api_pb2.ListSessionGroupsRequest(
        start_index=0, slice_size=100, allowed_statuses=states, include_metrics=True
    )
    groups = list_session_groups.Handler(context.RequestContext(), backend, "", which).run()
    return experiment, groups.session_groups


def test_the_tab_shows_every_point_and_its_figures(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams import api_pb2

    experiment, groups = plugin(written(tmp_path))
    infos = {info.name: info for info in experiment.hparam_infos}
    assert set(infos) == {"optimizer.lr", "flag", "hidden", "momentum", "trial.state"}
    assert infos["optimizer.lr"].type == api_pb2.DATA_TYPE_FLOAT64
    assert infos["flag"].type == api_pb2.DATA_TYPE_BOOL
    assert {info.name.tag for info in experiment.metric_infos} == {"objective/val_accuracy", "val/accuracy"}
    first, second, third = sorted(groups, key=lambda group: group.name)
    assert first.hparams["optimizer.lr"].number_value == 0.1
    assert first.hparams["flag"].bool_value is True
    assert first.hparams["hidden"].string_value == "[32, 64]"
    assert third.hparams["hidden"].string_value == "null"
    assert "momentum" not in first.hparams
    assert [group.hparams["trial.state"].string_value for group in (first, second, third)] == [t.state for t in TRIALS]
    values = [
        {value.name.tag: value.value for value in group.metric_values}.get("objective/val_accuracy")
        for group in (first, second, third)
    ]
    assert values == [pytest.approx(0.9), pytest.approx(0.3), None]
    expected = [api_pb2.STATUS_SUCCESS, api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE]
    assert [group.sessions[0].status for group in (first, second, third)] == expected


def test_an_accumulator_reads_both_files_of_a_trial(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(written(tmp_path) / "0000/tensorboard"))
    accumulator.Reload()
    assert set(accumulator.Tags()["scalars"]) == {"val/accuracy", "objective/val_accuracy"}
    (event,) = accumulator.Scalars("objective/val_accuracy")
    assert (event.step, event.value) == (2, pytest.approx(0.9))


def test_written_again_it_is_the_same_file(tmp_path: Path) -> None:
    folder = written(tmp_path) / "0000/tensorboard"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_hparams(tmp_path, TRIALS[0], OBJECTIVES)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert sorted(before)[-1].endswith("hparams")  # TensorBoard reads in this order


def test_a_trial_without_a_folder_leaves_nothing(tmp_path: Path) -> None:
    assert write_hparams(tmp_path, Trial(3, "invalid", {}), OBJECTIVES) is None
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_does_not_stop_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    (tmp_path / "trials/0000").mkdir(parents=True)
    monkeypatch.setattr(Path, "write_bytes", full)
    assert write_hparams(tmp_path, TRIALS[0], OBJECTIVES) is None


def test_figures_are_the_objectives_that_are_known() -> None:
    several = ["val_accuracy", "params", "latency_ms"]
    extra = {"val_accuracy": 0.6, "params": 1000.0, "val_loss": 0.1}
    assert figures(Trial(0, "stopped", {}, (), {1: 0.3, 2: 0.5}, extra=extra), several) == {
        "val_accuracy": 0.6,
        "params": 1000.0,
    }
    assert figures(Trial(0, "complete", {}, (0.7, 5.0, math.inf), extra=extra), several) == {
        "val_accuracy": 0.7,
        "params": 5.0,
    }
    assert figures(Trial(0, "failed", {}), several) == {}


def test_a_file_takes_no_time_worth_mentioning(tmp_path: Path) -> None:
    (tmp_path / "trials/0000").mkdir(parents=True)
    write_hparams(tmp_path, TRIALS[0], OBJECTIVES)  # imports
    took = []
    for _ in range(20):
        began = time.perf_counter()
        write_hparams(tmp_path, TRIALS[0], OBJECTIVES)
        took.append(time.perf_counter() - began)
    assert sorted(took)[10] < 0.005


def test_no_torch_is_imported() -> None:
    code = (
        "import sys; from pathlib import Path; from scaledl.tune.hparams import _events; "
        "from scaledl.tune.study import Trial; _events(Trial(0, 'complete', {'a': 1}, (1.0,)), ['val_loss']); "
        "print(sorted({'torch', 'tensorflow'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


PLAIN_OPTUNA = """\
import json, sys
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

optuna.logging.disable_default_handler()
study = optuna.load_study(study_name="scaledl", storage=JournalStorage(JournalFileBackend(sys.argv[1])))
print(json.dumps({
    "names": study.metric_names,
    "directions": [direction.name for direction in study.directions],
    "user": study.user_attrs,
    "best": study.best_trial.number,
    "trials": [
        {
            "state": trial.state.name,
            "params": trial.params,
            "values": trial.values,
            "curve": trial.intermediate_values,
            "user": trial.user_attrs,
        }
        for trial in study.trials
    ],
    "scaledl": "scaledl" in sys.modules,
}))
"""


def test_plain_optuna_opens_the_journal(tmp_path: Path) -> None:
    space = ["tune.space.optimizer.lr={loguniform: [1e-4, 1e-1]}", "tune.space.model.hidden=[[16], [32, 64]]"]
    config = load_config(None, ["model={family: mlp}", "trainer.epochs=2", "tune.search=random", *space])
    study = Study(tmp_path, config, space_of(config))
    points = []
    for value in (0.5, 0.75):
        number, point = study.ask()
        points.append(point)
        study.report(number, 1, value - 0.1)
        study.report(number, 2, value)
        study.tell(number, "complete", [value], epochs=2, host="n1")
    number, _ = study.ask()
    study.report(number, 1, 0.1)
    study.tell(number, "stopped", epochs=1)
    study.tell(study.ask()[0], "failed", error="no memory")
    before = (tmp_path / JOURNAL).read_bytes()
    command = [sys.executable, "-c", PLAIN_OPTUNA, str(tmp_path / JOURNAL)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert not seen["scaledl"]
    assert (seen["names"], seen["directions"], seen["best"]) == (["val_accuracy"], ["MAXIMIZE"], 1)
    assert seen["user"]["scaledl"]["search"] == "random"
    assert [trial["state"] for trial in seen["trials"]] == ["COMPLETE", "COMPLETE", "PRUNED", "FAIL"]
    for point, trial, value in zip(points, seen["trials"], (0.5, 0.75), strict=False):
        assert trial["params"]["optimizer.lr"] == point["optimizer.lr"]
        assert json.loads(trial["params"]["model.hidden"]) == point["model.hidden"]
        assert trial["values"] == [value]
        assert trial["curve"] == {"1": value - 0.1, "2": value}
    assert seen["trials"][2]["curve"] == {"1": 0.1}
    assert seen["trials"][3]["user"]["error"] == "no memory"
    assert (tmp_path / JOURNAL).read_bytes() == before
