"""Stopping anywhere and going on: signals at every hook, epoch boundaries, damaged files, finished trainings."""

import json
import os
import signal

import pytest
import pytorch_lightning as pl
import torch

from scaledl.checkpoint import best_verified, newest_verified, scan
from scaledl.config import Config, replace
from scaledl.data import build_data
from scaledl.distributed.preemption import STOP_SIGNALS, stop_flag
from scaledl.errors import Interrupted, Preempted, UsageError
from scaledl.models.structure import new_model
from scaledl.run import Run, sha256_file
from scaledl.tasks.base import NonFiniteLossError
from scaledl.train import fit
from scaledl.train.callbacks import drop_lines_after

pytestmark = pytest.mark.unit

BASE = Config.model_validate(
    {
        "model": {"family": "mlp", "hidden": [16]},
        "data": {"batch_size": 256, "augment": {"crop": 1}},
        "trainer": {"epochs": 3, "precision": "fp32", "num_threads": 1},
    }
)
STEPS = 6  # in an epoch


@pytest.fixture(scope="module")
def data():
    return build_data(BASE.data, 0)


@pytest.fixture
def signals():
    """The stop signals are ours, as in a command; afterwards everything is as it was."""
    before = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}
    stop_flag.install()
    yield
    stop_flag.clear()
    stop_flag._installed = False
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture(autouse=True)
def _clear_flag():
    yield
    stop_flag.clear()


def train(folder, config, data, *callbacks, model=None):
    """One attempt at the run FOLDER/t/one."""
    run = Run.open_or_create(folder, "t", "one", kind="train", config=config)
    with run.attempt():
        spec = data.spec
        model = model or new_model(config.model, spec.in_shape, spec.num_classes, config.run.seed)
        result = fit(config, run, data, model, callbacks=callbacks)
        run.finish("complete")
    return run, result


def records(run):
    return [json.loads(line) for line in run.metrics_file.read_text().splitlines()]


def losses(run):
    return [loss for record in records(run) if record["kind"] == "train" for loss in record["losses"]]


def validations(run):
    return [(record["epoch"], record["val_loss"]) for record in records(run) if record["kind"] == "val"]


def assert_same(a, b):
    (run_a, result_a), (run_b, result_b) = a, b
    state = result_b.model.module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in result_a.model.module.state_dict().items())
    assert losses(run_a) == losses(run_b)
    assert validations(run_a) == validations(run_b)
    assert (result_a.metrics, result_a.steps, result_a.epochs) == (result_b.metrics, result_b.steps, result_b.epochs)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """BASE without an interruption."""
    return train(tmp_path_factory.mktemp("whole"), BASE, data)


class At(pl.Callback):
    """Sends signals in one hook, at its n-th call."""

    def __init__(self, hook, call, *signums):
        self.left, self.signums = call, signums
        setattr(self, hook, self.send)

    def send(self, *_, **__):
        self.left -= 1
        if self.left == 0:
            for signum in self.signums:
                os.kill(os.getpid(), signum)


class Ledger(pl.Callback):
    """(epoch, ids) of every batch that was trained on."""

    def __init__(self):
        self.batches = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append((trainer.current_epoch, batch.ids.tolist()))


# Signals

HOOKS = [
    ("setup", 1),
    ("on_fit_start", 1),
    ("on_train_start", 1),
    ("on_train_epoch_start", 1),
    ("on_train_epoch_start", 2),
    ("on_train_batch_start", 1),
    ("on_train_batch_end", 4),
    ("on_train_batch_end", STEPS - 1),
    ("on_train_batch_end", STEPS),
    ("on_validation_start", 1),
    ("on_validation_batch_end", 1),
    ("on_validation_end", 2),
    ("on_train_epoch_end", 1),
    ("on_save_checkpoint", 1),
]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT], ids=lambda signum: signum.name)
@pytest.mark.parametrize(("hook", "call"), HOOKS)
@pytest.mark.usefixtures("signals")
def test_a_signal_at_any_hook_saves_and_goes_on_with_the_same_bits(tmp_path, data, whole, hook, call, signum):
    with pytest.raises(Interrupted if signum == signal.SIGINT else Preempted, match=f"{signum.name}; checkpoint saved"):
        train(tmp_path, BASE, data, At(hook, call, signum))
    run = Run.open(tmp_path / "t/one")
    assert run.state == "preempted"
    assert newest_verified(run.checkpoints)[1].step == scan(run.checkpoints)[0][1].step > 0
    stop_flag.clear()
    assert_same(train(tmp_path, BASE, data), whole)


@pytest.mark.parametrize(
    ("hook", "call"),
    [("on_train_batch_end", 3 * STEPS), ("on_validation_start", 3), ("on_train_epoch_end", 3), ("on_train_end", 1)],
)
@pytest.mark.usefixtures("signals")
def test_a_signal_after_the_last_step_lets_it_end(tmp_path, data, whole, hook, call):
    done = train(tmp_path, BASE, data, At(hook, call, signal.SIGTERM))
    assert_same(done, whole)
    assert done[0].state == "complete"


@pytest.mark.usefixtures("signals")
def test_three_signals_during_a_save_make_one_checkpoint(tmp_path, data, whole):
    config = replace(BASE, {"trainer.checkpoint_every_n_steps": 2})
    with pytest.raises(Preempted, match="stopped by SIGUSR1"):
        train(tmp_path, config, data, At("on_save_checkpoint", 1, *[signal.SIGUSR1] * 3))
    run = Run.open(tmp_path / "t/one")
    assert [info.step for _, info in scan(run.checkpoints)] == [3, 2]
    assert not list(run.path.rglob("*.tmp"))
    stop_flag.clear()
    assert_same(train(tmp_path, BASE, data), whole)


@pytest.mark.usefixtures("signals")
def test_a_second_ctrl_c_ends_at_once_and_a_third_would_still_be_heard(tmp_path, data, whole):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, BASE, data, At("on_train_batch_start", STEPS + 2, signal.SIGINT, signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) == stop_flag.handle
    assert Run.open(tmp_path / "t/one").state == "preempted"
    stop_flag.clear()
    assert_same(train(tmp_path, BASE, data), whole)


def test_a_signal_before_the_training_writes_no_checkpoint(tmp_path, data):
    stop_flag.signum = signal.SIGTERM
    with pytest.raises(Preempted, match="train had not begun"):
        train(tmp_path, BASE, data)
    assert not (tmp_path / "t/one/checkpoints").exists()


def test_where_the_signals_are_not_ours_they_stay_so(tmp_path, data):
    before = [signal.getsignal(signum) for signum in STOP_SIGNALS]
    seen = []

    class Look(pl.Callback):
        def on_train_batch_end(self, *_):
            seen.append([signal.getsignal(signum) for signum in STOP_SIGNALS])

    train(tmp_path, replace(BASE, {"trainer.epochs": 1}), data, Look())
    assert seen == [before] * STEPS


# Samples


@pytest.mark.parametrize("stops", [[STEPS], [1], [STEPS - 1], [STEPS, STEPS], [2, 1, STEPS - 2, 1], [1] * 8])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.usefixtures("signals")
def test_every_sample_once_an_epoch_however_often_it_stops(tmp_path, data, stops, accumulate):
    config = replace(BASE, {"trainer.accumulate": accumulate})
    ledger = Ledger()
    for stop in stops:
        with pytest.raises(Preempted):
            train(tmp_path, config, data, ledger, At("on_train_batch_end", stop, signal.SIGTERM))
        stop_flag.clear()
    train(tmp_path, config, data, ledger)
    uninterrupted = Ledger()
    train(tmp_path / "whole", config, data, uninterrupted)
    assert ledger.batches == uninterrupted.batches
    for epoch in range(3):
        ids = [i for at, batch in ledger.batches if at == epoch for i in batch]
        assert sorted(ids) == sorted(data.train.ids.tolist())


@pytest.mark.usefixtures("signals")
def test_an_epoch_of_a_single_batch_stops_and_goes_on(tmp_path, data):
    config = replace(BASE, {"data.batch_size": 5000, "trainer.checkpoint_every_n_steps": 1})
    expected = train(tmp_path / "whole", config, data)
    with pytest.raises(Preempted, match="checkpoint saved after epoch 1"):
        train(tmp_path, config, data, At("on_train_batch_start", 1, signal.SIGTERM))
    stop_flag.clear()
    assert_same(train(tmp_path, config, data), expected)


# Ends


@pytest.mark.parametrize("max_steps", [STEPS + 3, 2 * STEPS])
@pytest.mark.usefixtures("signals")
def test_max_steps_holds_over_a_resume(tmp_path, data, max_steps):
    config = replace(BASE, {"trainer.max_steps": max_steps, "trainer.ema_decay": 0.9})
    expected = train(tmp_path / "whole", config, data)
    assert expected[1].steps == max_steps
    with pytest.raises(Preempted):
        train(tmp_path, config, data, At("on_train_batch_end", STEPS + 1, signal.SIGTERM))
    stop_flag.clear()
    assert_same(train(tmp_path, config, data), expected)
    assert_same(train(tmp_path, config, data), expected)  # killed after its end, before the model was saved


@pytest.mark.usefixtures("signals")
def test_early_stopping_remembers_over_a_resume(tmp_path, data):
    config = replace(BASE, {"trainer.epochs": 30, "trainer.early_stopping_patience": 3, "optimizer.lr": 2.0})
    expected = train(tmp_path / "whole", config, data)
    assert 3 < expected[1].epochs < 30
    stop = (expected[1].epochs - 1) * STEPS - 2
    with pytest.raises(Preempted):
        train(tmp_path, config, data, At("on_train_batch_end", stop, signal.SIGTERM))
    stop_flag.clear()
    assert_same(train(tmp_path, config, data), expected)
    assert_same(train(tmp_path, config, data), expected)


def test_a_resumed_run_says_where_it_goes_on(tmp_path, data, capsys):
    train(tmp_path, BASE, data)
    train(tmp_path, BASE, data)
    assert f"resumed from epoch 3 step {3 * STEPS} (attempt 2)" in capsys.readouterr().out


def test_up_to_a_non_finite_loss_every_loss_is_recorded(tmp_path, data, whole):
    class Poison(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == STEPS + 2:
                next(pl_module.parameters()).data.fill_(float("inf"))

    with pytest.raises(NonFiniteLossError, match=rf"at step {STEPS + 3} \(epoch 2"):
        train(tmp_path, replace(BASE, {"trainer.max_nonfinite_steps": 0}), data, Poison())
    run = Run.open(tmp_path / "t/one")
    assert run.state == "failed"
    assert losses(run) == losses(whole[0])[: STEPS + 2]
    assert_same(train(tmp_path, BASE, data), whole)


# Damage


@pytest.fixture
def stopped(tmp_path, data):
    """A folder with a run that was stopped in its second epoch, with checkpoints after steps 6 and 8."""
    stop_flag.install()
    with pytest.raises(Preempted):
        train(tmp_path, BASE, data, At("on_train_batch_end", STEPS + 2, signal.SIGTERM))
    stop_flag.clear()
    return tmp_path


def rewrite(path, change_fn):
    """Change a checkpoint and let its second file fit again."""
    checkpoint = torch.load(path, weights_only=True)
    change_fn(checkpoint)
    torch.save(checkpoint, path)
    sidecar = path.with_suffix(".json")
    info = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({**info, "size": path.stat().st_size, "sha256": sha256_file(path)}))


def poison(checkpoint):
    next(iter(checkpoint["state_dict"].values())).fill_(float("nan"))


MISFITS = {
    "NaN": (poison, "contains NaN or infinite values"),
    "no weights": (lambda c: c.pop("state_dict"), "is not a scaledl checkpoint: it has no state_dict"),
    "one missing": (lambda c: c["state_dict"].popitem(), "it lacks model."),
    "weights are a list": (lambda c: c.update(state_dict=[1]), "does not fit this run"),
    "no version": (lambda c: c.pop("pytorch-lightning_version"), "does not fit this run"),
    "no position": (lambda c: c["loops"].clear(), "does not fit this run"),
    "no optimizer": (lambda c: c["optimizer_states"].clear(), "does not fit this run"),
    "other optimizer": (lambda c: c["optimizer_states"][0].update(param_groups=[]), "does not fit this run"),
    "no callback": (lambda c: c["callbacks"]["Checkpointer"].clear(), "does not fit this run"),
    "random state": (lambda c: c["callbacks"]["Checkpointer"]["random"][0].update(python=[3]), "does not fit this run"),
    "torch's state": (
        lambda c: c["callbacks"]["Checkpointer"]["random"][0].update(torch=torch.zeros(3)),
        "does not fit this run",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_whole_checkpoint_that_does_not_fit_is_named_and_nothing_is_lost(stopped, data, whole, name):
    change_fn, message = MISFITS[name]
    newest = scan(stopped / "t/one/checkpoints")[0][0]
    rewrite(newest, change_fn)
    with pytest.raises(UsageError) as caught:
        train(stopped, BASE, data)
    assert str(newest) in str(caught.value)
    assert message in str(caught.value)
    assert "to go on from the one before" in str(caught.value)
    assert len(scan(newest.parent)) == 2
    newest.unlink()
    newest.with_suffix(".json").unlink()
    assert_same(train(stopped, BASE, data), whole)


def test_the_checkpoint_of_another_architecture_is_named(stopped, data):
    other = replace(BASE, {"model.hidden": [16, 16]})
    with pytest.raises(UsageError, match=r"step-00000008.ckpt is of another model than the config describes: it lacks"):
        train(stopped, other, data)
    other = replace(BASE, {"model.hidden": [24]})
    with pytest.raises(UsageError, match=r"step-00000008.ckpt .*\[16, 64\] there and \[24, 64\] here"):
        train(stopped, other, data)


def test_without_any_usable_checkpoint_it_says_so_and_starts_again(stopped, data, whole, capsys):
    for path, _ in scan(stopped / "t/one/checkpoints"):
        path.write_bytes(b"")
    assert_same(train(stopped, BASE, data), whole)
    errors = capsys.readouterr().err
    assert errors.count("passing over") == 2
    assert "starting again from step 0" in errors


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"precision": 3, "channels_last": true, "num_threads": 1}'])
def test_damaged_settings_are_named(stopped, data, whole, text):
    path = stopped / "t/one/checkpoints/settings.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"settings.json is damaged.*Remove it"):
        train(stopped, BASE, data)
    path.unlink()
    assert_same(train(stopped, BASE, data), whole)


@pytest.mark.parametrize("tail", [b'{"kind": "tr', b"\xff\xfe\n", b"[1]\n17\nnull\n", b'{"step": "x"}\n{}\n'])
def test_a_damaged_end_of_the_metrics_is_dropped(stopped, data, whole, tail):
    with (stopped / "t/one/metrics.jsonl").open("ab") as file:
        file.write(tail)
    assert_same(train(stopped, BASE, data), whole)


def test_metrics_are_cut_to_the_step_that_goes_on(tmp_path):
    path = tmp_path / "metrics.jsonl"
    train_records = [{"kind": "train", "step": step, "losses": [step - 1.0, float(step)]} for step in (2, 4, 6)]
    lines = [*train_records, {"kind": "val", "step": 4}, {"kind": "val", "step": 6}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    drop_lines_after(path, 5)
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["kind"], r["step"], r.get("losses")) for r in kept] == [
        ("train", 2, [1.0, 2.0]),
        ("train", 4, [3.0, 4.0]),
        ("train", 5, [5.0]),
        ("val", 4, None),
    ]
    assert kept[2]["loss"] == 5.0
    drop_lines_after(tmp_path / "missing", 5)
    assert not (tmp_path / "missing").exists()


def test_a_damaged_best_gives_way_to_the_next(tmp_path, data, capsys):
    class Damage(pl.Callback):
        def on_train_end(self, *_):
            best = best_verified(tmp_path / "t/one/checkpoints")
            best.write_bytes(b"x" * best.stat().st_size)

    config = replace(BASE, {"trainer.select": "best", "trainer.keep_last": 3, "optimizer.lr": 0.01})
    run, result = train(tmp_path, config, data, Damage())
    assert result.metrics["val_loss"] == sorted(loss for _, loss in validations(run))[1]
    assert "the best so far: its content does not match" in capsys.readouterr().err
