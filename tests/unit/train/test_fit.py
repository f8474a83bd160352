"""Training in one process, on a small MLP and the embedded digits."""

import json
import math
import signal

import pytest
import pytorch_lightning as pl
import torch

from scaledl.checkpoint import scan
from scaledl.config import Config, replace
from scaledl.data import build_data
from scaledl.distributed.preemption import stop_flag
from scaledl.errors import Preempted
from scaledl.models.structure import new_model
from scaledl.run import Run
from scaledl.tasks.base import NonFiniteLossError
from scaledl.train import fit

pytestmark = pytest.mark.unit

BASE = Config.model_validate(
    {
        "model": {"family": "mlp", "hidden": [16]},
        "data": {"batch_size": 128, "augment": {"crop": 1}},
        "trainer": {"epochs": 2, "precision": "fp32", "num_threads": 1, "log_every_n_steps": 4},
    }
)


@pytest.fixture(scope="module")
def data():
    return build_data(BASE.data, 0)


def start(tmp_path, config, name="t"):
    run = Run.open_or_create(tmp_path, name, "one", kind="train", config=config)
    run.begin()
    return run


def new(config, data):
    return new_model(config.model, data.spec.in_shape, data.spec.num_classes, config.run.seed)


def fit_config(tmp_path, config, data, name="t", **more):
    run = start(tmp_path, config, name)
    try:
        return run, fit(config, run, data, new(config, data), **more)
    except Preempted:
        run.finish("preempted")
        raise


def records(run):
    return [json.loads(line) for line in run.metrics_file.read_text().splitlines()]


def losses(run):
    return [loss for record in records(run) if record["kind"] == "train" for loss in record["losses"]]


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.module.state_dict().values()])


def test_what_is_dropped_follows_from_the_seed(tmp_path, data):
    config = replace(BASE, {"model": {"family": "mlp", "hidden": [32], "dropout": 0.5}, "trainer.max_steps": 3})
    found = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)  # whatever was drawn before
        run, _ = fit_config(tmp_path, replace(config, {"run.seed": seed}), data, f"t{number}")
        found.append(losses(run))
    assert found[0] == found[1] != found[2]


def test_it_learns_and_records_every_step(tmp_path, data):
    config = replace(BASE, {"trainer.epochs": 8, "optimizer.lr": 0.01})
    run, result = fit_config(tmp_path, config, data)
    steps = math.ceil(len(data.train) / 128) * 8
    assert result.steps == steps
    assert len(losses(run)) == steps
    assert result.metrics["val_accuracy"] > 0.7
    assert not result.model.module.training
    assert [r["epoch"] for r in records(run) if r["kind"] == "val"] == list(range(8))


def test_the_same_config_gives_the_same_weights(tmp_path, data):
    _, a = fit_config(tmp_path, BASE, data, "a")
    _, b = fit_config(tmp_path, BASE, data, "b")
    _, c = fit_config(tmp_path, replace(BASE, {"run.seed": 1}), data, "c")
    assert torch.equal(weights(a.model), weights(b.model))
    assert not torch.equal(weights(a.model), weights(c.model))


def test_accumulated_micro_batches_equal_whole_batches(tmp_path, data):
    _, whole = fit_config(tmp_path, BASE, data, "whole")
    _, split = fit_config(tmp_path, replace(BASE, {"trainer.accumulate": 4}), data, "split")
    torch.testing.assert_close(weights(whole.model), weights(split.model), rtol=0, atol=2e-5)


def test_max_steps_ends_with_a_validation_and_a_checkpoint(tmp_path, data):
    run, result = fit_config(tmp_path, replace(BASE, {"trainer.max_steps": 5}), data)
    assert result.steps == 5
    assert records(run)[-1]["kind"] == "val"
    assert scan(run.checkpoints)[0][1].step == 5


@pytest.mark.parametrize("steps", [1, 6, 11, 12, 17])
@pytest.mark.parametrize("extra", [{}, {"trainer.ema_decay": 0.9, "trainer.accumulate": 2, "optimizer.name": "sgd"}])
def test_resume_from_any_step_is_bit_exact(tmp_path, data, steps, extra):
    config = replace(BASE, extra)
    uninterrupted, expected = fit_config(tmp_path, config, data, "whole")
    try:
        with pytest.raises(Preempted):
            fit_config(tmp_path, config, data, "cut", callbacks=[StopAt(steps)])
    finally:
        stop_flag.signum = None
    torch.rand(7)
    run, result = fit_config(tmp_path, config, data, "cut")
    assert torch.equal(weights(result.model), weights(expected.model))
    assert losses(run) == losses(uninterrupted)
    assert result.metrics == expected.metrics
    assert result.steps == expected.steps


def test_a_finished_training_resumes_to_the_same_result(tmp_path, data):
    config = replace(BASE, {"trainer.ema_decay": 0.9})
    run, result = fit_config(tmp_path, config, data)
    again = fit(config, run, data, new(config, data))
    assert torch.equal(weights(again.model), weights(result.model))
    assert again.metrics == result.metrics


def test_the_best_epoch_can_be_selected(tmp_path, data):
    config = replace(BASE, {"trainer.epochs": 4, "trainer.select": "best", "trainer.keep_last": 1, "optimizer.lr": 0.3})
    run, result = fit_config(tmp_path, config, data)
    validations = [r["val_loss"] for r in records(run) if r["kind"] == "val"]
    assert result.metrics["val_loss"] == min(validations)


def test_early_stopping_waits_its_patience(tmp_path, data):
    config = replace(BASE, {"trainer.epochs": 30, "trainer.early_stopping_patience": 2, "optimizer.lr": 2.0})
    run, result = fit_config(tmp_path, config, data)
    validations = [r["val_loss"] for r in records(run) if r["kind"] == "val"]
    assert result.epochs < 30
    assert len(validations) == validations.index(min(validations)) + 3


def test_a_non_finite_loss_stops_with_step_samples_and_rate(tmp_path, data):
    with pytest.raises(NonFiniteLossError, match=r"loss became nan at step 3 .*learning rate .*sample ids: \d+, \d+"):
        fit_config(tmp_path, replace(BASE, {"trainer.max_nonfinite_steps": 0}), data, callbacks=[PoisonAt(2)])


def test_so_many_non_finite_losses_in_a_row_are_left_out(tmp_path, data, capsys):
    config = replace(BASE, {"trainer.max_nonfinite_steps": 2})
    with pytest.raises(NonFiniteLossError, match=r"at step 5 .*, 3 times in a row"):
        fit_config(tmp_path, config, data, callbacks=[PoisonAt(2)])
    assert "this step is left out (1 more in a row are allowed)" in capsys.readouterr().err


def test_a_step_that_is_left_out_changes_nothing_but_the_position(tmp_path, data):
    config = replace(BASE, {"trainer.epochs": 1, "trainer.ema_decay": 0.9, "optimizer.name": "adamw"})
    watch = Watch()
    run, result = fit_config(tmp_path, config, data, callbacks=[SpoilLoss(4), watch])
    assert watch.states[3] == watch.states[4], "weights, statistics and the optimizer's state"
    assert watch.states[4] != watch.states[5]
    assert watch.averages[4] == watch.averages[5], "the average of the weights, as it was before each step"
    assert watch.averages[3] != watch.averages[4]
    losses = [loss for record in records(run) if record["kind"] == "train" for loss in record["losses"]]
    assert [i for i, loss in enumerate(losses) if loss is None] == [4]
    assert result.steps == len(losses)


def test_the_teacher_pulls_the_student(tmp_path, data):
    teacher = new(replace(BASE, {"run.seed": 5}), data)
    _, student = fit_config(
        tmp_path, replace(BASE, {"trainer.epochs": 10, "optimizer.lr": 0.01}), data, teacher=teacher, teacher_weight=1.0
    )
    x = next(iter(data.eval_loader("val", 64))).x
    agreement = (teacher.module.eval()(x).argmax(1) == student.model.module(x).argmax(1)).float().mean()
    assert agreement > 0.5


def test_only_the_newest_and_the_best_checkpoints_stay(tmp_path, data):
    run, _ = fit_config(tmp_path, replace(BASE, {"trainer.epochs": 6, "trainer.keep_last": 2}), data)
    found = [info for _, info in scan(run.checkpoints)]
    assert [info.epoch for info in found[:2]] == [5, 4]
    validations = [r["val_loss"] for r in records(run) if r["kind"] == "val"]
    assert {info.epoch for info in found} == {5, 4, validations.index(min(validations))}


class StopAt(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            stop_flag.signum = signal.SIGTERM


class SpoilLoss(pl.Callback):
    """Makes the loss of one step NaN, and nothing else."""

    def __init__(self, step):
        self.step = step

    def on_train_start(self, trainer, pl_module):
        plain = pl_module.auxiliary

        def spoiled(batch, result):
            loss = plain(batch, result)
            return loss * float("nan") if trainer.global_step == self.step else loss

        pl_module.auxiliary = spoiled


class Watch(pl.Callback):
    """The bytes of weights and the optimizer's state after every step, and of averages before they follow."""

    def __init__(self):
        self.states, self.averages = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        average = next(c for c in trainer.callbacks if type(c).__name__ == "MovingAverage").average
        moments = [value for state in trainer.optimizers[0].state.values() for value in state.values()]
        tensors = [*pl_module.model.state_dict().values(), *moments]
        self.states.append(b"".join(tensor.detach().numpy().tobytes() for tensor in tensors))
        self.averages.append(b"".join(tensor.numpy().tobytes() for tensor in average.values()))


class PoisonAt(StopAt):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            next(pl_module.parameters()).data.fill_(float("nan"))


def test_a_last_step_that_ruins_the_weights_is_not_a_result(tmp_path, data):
    config = replace(BASE, {"trainer.max_steps": 1, "optimizer.lr": 1e38})
    with pytest.raises(NonFiniteLossError, match=r"validation loss became nan after step 1 \(epoch 1, learning rate"):
        fit_config(tmp_path, config, data)
