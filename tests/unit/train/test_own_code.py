"""A user's own LightningModule, task and callbacks, and Lightning's keys: what they do, and that all of it resumes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from scaledl import api
from scaledl.commands.output import print_trained
from scaledl.compress.quantize import apply_qat
from scaledl.compress.stage import StageContext
from scaledl.config import Config, ConfigError, load_config, replace
from scaledl.config.imported import check_trusted
from scaledl.config.schema import QATConfig
from scaledl.data import DataModule, build_data
from scaledl.errors import UsageError
from scaledl.models.structure import load_model
from scaledl.run import Run
from scaledl.tasks.model import model_for
from scaledl.train import fit
from scaledl.train.start import find_start

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[3]
BASE = Config.model_validate(
    {
        "model": {"family": "mlp", "hidden": [16]},
        "data": {"batch_size": 256},
        "trainer": {"epochs": 3, "precision": "fp32", "num_threads": 1},
    }
)
LIT = {"model": {"family": "external", "name": "tests.own_modules:Lit"}}
STEPS = 6  # in an epoch


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data() -> DataModule:
    return build_data(BASE.data, 0)


def with_keys(**sections: Any) -> Config:
    return Config.model_validate({**BASE.model_dump(), **sections})


def train(folder: Path, config: Config, data: DataModule, *callbacks: pl.Callback) -> tuple[Run, Any]:
    run = Run.open_or_create(folder, "t", "one", kind="train", config=config)
    with run.attempt():
        result = fit(config, run, data, model_for(config, data.spec), callbacks=callbacks)
        run.finish("complete")
    return run, result


def losses(run: Run) -> list[float]:
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    return [loss for line in lines if line["kind"] == "train" for loss in line["losses"]]


class StopAfter(pl.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise KeyError("made up by the test")


def test_a_lightning_module_learns_by_its_own_steps(tmp_path: Path, data: DataModule) -> None:
    """The same weights as plain PyTorch with its loss, its optimizer and its schedule."""
    config = with_keys(**LIT)
    _, result = train(tmp_path, config, data)
    module: Any = model_for(config, data.spec).module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    loader = data.train_loader(256, config.data.augment, 0)
    for epoch in range(3):
        loader.set_epoch(epoch)
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * 0.5**epoch
        for batch in loader:
            optimizer.zero_grad()
            F.cross_entropy(module(batch.contiguous().x), batch.y).backward()
            optimizer.step()
    for name, value in module.state_dict().items():
        torch.testing.assert_close(result.model.module.state_dict()[name], value, atol=1e-6, rtol=1e-5)
    assert result.metrics["val_share"] == pytest.approx(result.metrics["val_accuracy"], abs=1e-6)
    assert result.model.module.epochs_seen == 3


@pytest.mark.parametrize("step", [4, 8])
def test_a_stopped_lightning_module_goes_on_to_the_same_bits(step: int, tmp_path: Path, data: DataModule) -> None:
    config = replace(with_keys(**LIT), {"trainer.checkpoint_every_n_steps": 2})
    run, whole = train(tmp_path / "whole", config, data)
    with pytest.raises(KeyError, match="made up"):
        train(tmp_path / "stopped", config, data, StopAfter(step))
    again, result = train(tmp_path / "stopped", config, data)
    state = result.model.module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.model.module.state_dict().items())
    assert losses(run) == losses(again)


def test_accumulation_gives_the_same_as_the_whole_batch(tmp_path: Path, data: DataModule) -> None:
    config = with_keys(**LIT)
    _, whole = train(tmp_path / "a", config, data)
    _, parts = train(tmp_path / "b", replace(config, {"trainer.accumulate": 4}), data)
    for name, value in whole.model.module.state_dict().items():
        torch.testing.assert_close(parts.model.module.state_dict()[name], value, atol=1e-5, rtol=1e-4)


def test_a_lightning_module_is_saved_exported_and_needs_trust(tmp_path: Path) -> None:
    config = with_keys(**LIT, run={"root": str(tmp_path), "name": "lit", "id": "one"}, trainer={"epochs": 1})
    run = api.train(config)
    with pytest.raises(UsageError, match=r"tests.own_modules:Lit.*add --trust"):
        api.evaluate("lit/one", tmp_path)
    with pytest.raises(UsageError, match="--trust"):
        api.export(run)
    assert api.evaluate("lit/one", tmp_path, trust=True)[1].accuracy == run.manifest.metrics["test_accuracy"]
    assert load_model(run.model_dir, trust=True).module.net[1].out_features == 16


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("ByHand", {}, "optimizes by hand"),
        ("Steps", {}, "overrides optimizer_step, which training does by itself"),
        ("Lit", {"transfer.lr_decay": 0.5}, "transfer.lr_decay: got 0.5, and .* makes its own optimizer"),
        ("Lit", {"trainer.strategy": "deepspeed"}, "trainer.strategy: got deepspeed"),
    ],
)
def test_what_cannot_be_exact_is_refused(name: str, keys: Any, message: str, data: DataModule) -> None:
    config = with_keys(model={"family": "external", "name": f"tests.own_modules:{name}"})
    with pytest.raises(UsageError, match=message):
        find_start(replace(config, keys), data.spec)


def test_several_optimizers_are_refused(tmp_path: Path, data: DataModule) -> None:
    config = with_keys(model={"family": "external", "name": "tests.own_modules:Several"})
    with pytest.raises(UsageError, match="gives no single optimizer"):
        train(tmp_path, config, data)


def test_a_task_of_one_s_own_has_what_it_extends(tmp_path: Path, data: DataModule) -> None:
    _, result = train(tmp_path / "own", with_keys(task={"name": "tests.own_modules:Doubled"}), data)
    assert 0 < result.metrics["val_accuracy"] < 1
    assert result.metrics["val_loss"] > 4  # twice that of guessing among ten
    plain = model_for(BASE, data.spec).module
    assert result.model.module.state_dict().keys() == plain.state_dict().keys()
    with pytest.raises(UsageError, match=r"task.name: tests.own_modules:Lit is no subclass .* model.name="):
        model_for(with_keys(task={"name": "tests.own_modules:Lit"}), data.spec)


CALLBACKS = {"trainer.callbacks": ["tests.own_modules:Counter"], "trainer.checkpoint_every_n_steps": 2}


def test_callbacks_see_what_lightning_s_see_and_resume(
    tmp_path: Path, data: DataModule, capfd: pytest.CaptureFixture[str]
) -> None:
    config = replace(BASE, CALLBACKS)
    with pytest.raises(KeyError, match="made up"):
        train(tmp_path, config, data, StopAfter(9))
    train(tmp_path, config, data)
    assert f"counted {3 * STEPS} ['val_accuracy', 'val_loss']" in capfd.readouterr().out


def test_lightning_s_own_callbacks_work(tmp_path: Path, data: DataModule) -> None:
    stop = {"path": "pytorch_lightning.callbacks:EarlyStopping", "args": {"monitor": "val_loss", "min_delta": 9.0}}
    stop["args"] |= {"patience": 1}
    _, result = train(tmp_path, replace(BASE, {"trainer.callbacks": [stop]}), data)
    assert result.epochs == 2


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("tests.own_modules:Nose", "trainer.callbacks.0: tests.own_modules:Nose: cannot be imported"),
        ("os:getcwd", "gives a str; allowed: a pytorch_lightning.Callback"),
        ({"path": "tests.own_modules:Counter", "args": {"nose": 1}}, r"cannot be made with \{'nose': 1\}"),
        ("pytorch_lightning.callbacks:ModelCheckpoint", "writes checkpoints, which training does by itself"),
        (
            {"path": "pytorch_lightning.callbacks:StochasticWeightAveraging", "args": {"swa_lrs": 0.1}},
            r"does not go with this training; instead: trainer\.swa_start",
        ),
        ("pytorch_lightning.callbacks:EMAWeightAveraging", r"instead: trainer\.ema_decay"),
        ("pytorch_lightning.callbacks:LearningRateMonitor", r"instead: metrics\.jsonl"),
        ("pytorch_lightning.callbacks:LearningRateFinder", "instead: `scaledl find lr`"),
        ("pytorch_lightning.callbacks:TQDMProgressBar", "instead: the display is scaledl's own"),
    ],
)
def test_wrong_callbacks_are_refused_before_a_run_is_made(entry: Any, message: str, data: DataModule) -> None:
    with pytest.raises(UsageError, match=message):
        find_start(replace(BASE, {"trainer.callbacks": [entry]}), data.spec)


def test_state_that_could_not_be_read_again_is_refused(tmp_path: Path, data: DataModule) -> None:
    config = replace(BASE, {"trainer.callbacks": ["tests.own_modules:Odd"]})
    with pytest.raises(UsageError, match=r"callbacks.Odd.thing is a builtins.object; checkpoints hold tensors"):
        train(tmp_path, config, data)


def test_what_lightning_refuses_is_bad_usage(tmp_path: Path, data: DataModule) -> None:
    config = replace(BASE, {"trainer.callbacks": ["tests.own_modules:Picky"]})
    with pytest.raises(UsageError, match=r"Lightning cannot use .* nothing suits me"):
        train(tmp_path, config, data)


def test_limits_count_batches_and_the_schedule_follows(tmp_path: Path, data: DataModule) -> None:
    keys = {"trainer.limit_train_batches": 2, "trainer.limit_val_batches": 0.5, "data.eval_batch_size": 10}
    run, result = train(tmp_path, replace(BASE, keys), data)
    assert result.steps == 3 * 2
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    rates = [line["lr"] for line in lines if line["kind"] == "train"]
    assert rates[-1] < 0.2 * 1e-3  # the last of six steps of a cosine
    assert result.metrics["val_accuracy"] * 70 == pytest.approx(round(result.metrics["val_accuracy"] * 70), abs=1e-4)


def test_a_limited_epoch_goes_on_exactly(tmp_path: Path, data: DataModule) -> None:
    config = replace(BASE, {"trainer.limit_train_batches": 4, "trainer.checkpoint_every_n_steps": 1})
    run, whole = train(tmp_path / "whole", config, data)
    with pytest.raises(KeyError, match="made up"):
        train(tmp_path / "stopped", config, data, StopAfter(6))
    again, result = train(tmp_path / "stopped", config, data)
    assert losses(run) == losses(again)
    assert len(losses(run)) == 12
    state = result.model.module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.model.module.state_dict().items())


def test_a_fast_dev_run_is_one_short_epoch_of_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = replace(BASE, {"trainer.fast_dev_run": 2, "run.root": str(tmp_path), "run.name": "dev", "run.id": "one"})
    run = api.train(replace(config, {"scheduler.warmup_epochs": 2.0, "data.eval_batch_size": 20}))
    assert len(losses(run)) == 2
    assert json.loads((run.path / "evaluation.json").read_text())["count"] == 40
    assert run.config.trainer.epochs == 1
    print_trained(run)
    assert "test samples   40, as trainer.limit_test_batches says" in capsys.readouterr().out
    assert api.train(replace(config, {"scheduler.warmup_epochs": 2.0, "data.eval_batch_size": 20})).state == "complete"


def test_torchs_profiler_prints_nothing_of_its_own(tmp_path: Path) -> None:
    keys = ["trainer.profiler=pytorch", "trainer.epochs=1", "trainer.limit_train_batches=4", f"run.root={tmp_path}"]
    command = [sys.executable, "-m", "scaledl", "train", *keys, "trainer.accelerator=cpu", "trainer.num_threads=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, check=True)
    said = done.stdout + done.stderr
    assert "Profiler" not in said
    assert "profiler_start" not in said
    assert "DeviceProperties" not in said
    assert len(list(tmp_path.glob("*/latest/fit-profile-0*.pt.trace.json"))) == 1
    [profile] = [line for line in done.stdout.splitlines() if line.startswith("profile")]
    assert Path(profile.split()[1]).name == "fit-profile-0.txt"


@pytest.mark.filterwarnings("error:Warning. Profiler clears events")
@pytest.mark.parametrize("kind", ["simple", "advanced", "pytorch"])
def test_profiles_are_written_into_the_run(kind: str, tmp_path: Path, data: DataModule) -> None:
    run, _ = train(tmp_path, replace(BASE, {"trainer.profiler": kind, "trainer.epochs": 1}), data)
    assert ("training_step" if kind != "pytorch" else "aten::") in (run.path / "fit-profile-0.txt").read_text()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.limit_train_batches=0", "limit_train_batches"),
        ("trainer.limit_val_batches=1.5", "limit_val_batches"),
        ("trainer.fast_dev_run=0", "fast_dev_run"),
        ("trainer.callbacks=[nose]", "trainer.callbacks"),
        ("trainer.profiler=perf", "trainer.profiler"),
        ("task.name=nose", "task.name .*did you mean|task.name .*allowed"),
    ],
)
def test_wrong_keys_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, [override])


def test_code_that_a_saved_config_names_needs_trust() -> None:
    for keys in (CALLBACKS, {"task.name": "my.tasks:Task"}, {"data.source": "my.data:Data"}, {"task.loss": "my:loss"}):
        config = replace(BASE, keys)
        with pytest.raises(UsageError, match="refused unless you trust"):
            check_trusted(config, False, "the run")
        check_trusted(config, True, "the run")
    check_trusted(BASE, False, "the run")


def test_quantized_it_has_no_steps_of_its_own_and_that_is_said(
    tmp_path: Path, data: DataModule, capsys: pytest.CaptureFixture[str]
) -> None:
    config = with_keys(**LIT)
    model = model_for(config, data.spec)
    run = Run.create(tmp_path, "own", "one", config=config)
    with run.attempt():
        apply_qat(model, StageContext(config, QATConfig(epochs=1, teacher_weight=0), run, data, model, 0, run, True))
    said = capsys.readouterr().out
    assert "Lit has no steps of its own: it learns by task.loss, optimizer and scheduler of the config" in said
