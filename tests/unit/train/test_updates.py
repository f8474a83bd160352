"""What moves weights beside the optimizer: penalties, SAM, weight averages, plateaus, clipping, shares of the rate."""

import json
import math

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from scaledl.checkpoint import read_checkpoint
from scaledl.config import Config, replace
from scaledl.data import build_data
from scaledl.distributed.preemption import stop_flag
from scaledl.errors import Preempted, ScaledlError
from scaledl.models.structure import new_model
from scaledl.optim.optimizers import build_optimizer
from scaledl.optim.schedules import Plateau, build_schedule
from scaledl.run import Run
from scaledl.train import fit

pytestmark = pytest.mark.unit

BASE = Config.model_validate(
    {
        "model": {"family": "mlp", "hidden": [8]},
        "data": {"batch_size": 256},
        "optimizer": {"name": "sgd", "lr": 0.1, "weight_decay": 0.0},
        "scheduler": {"name": "constant"},
        "trainer": {"epochs": 2, "precision": "fp32", "num_threads": 1},
    }
)
STEPS = 6  # in an epoch; the last has 14 samples
RESNET = {"model": {"family": "resnet", "depth": 8, "width": 2}, "trainer.channels_last": False}
SWA = {**RESNET, "trainer.epochs": 4, "trainer.swa_start": 0.5, "trainer.swa_lr_ratio": 0.5}
PLATEAU = {"scheduler": {"name": "plateau", "patience": 0, "gamma": 0.5}, "optimizer.lr": 20.0, "trainer.epochs": 4}


@pytest.fixture(scope="module")
def data():
    return build_data(BASE.data, 0)


def new(config, data):
    return new_model(config.model, data.spec.in_shape, data.spec.num_classes, config.run.seed)


def train(folder, config, data, *callbacks):
    run = Run.open_or_create(folder, "t", "one", kind="train", config=config)
    with run.attempt():
        result = fit(config, run, data, new(config, data), callbacks=callbacks)
    return run, result


def records(run, kind):
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def losses(run):
    return [loss for record in records(run, "train") for loss in record["losses"]]


def state(result):
    return result.model.module.state_dict()


def batches(config, data, epochs=2):
    loader = data.train_loader(config.data.batch_size, config.data.augment, config.run.seed)
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        yield from loader


def assert_close(found, expected):
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


class Rates(pl.Callback):
    """What each parameter group stepped with."""

    def __init__(self):
        self.rates = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])


class StopAt(pl.Callback):
    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.steps:
            stop_flag.signum = 15


# Penalties


@pytest.mark.parametrize("accumulate", [1, 4])
def test_penalties_are_part_of_the_loss_of_the_whole_batch(tmp_path, data, accumulate):
    config = replace(BASE, {"optimizer.l1": 1e-2, "optimizer.l2": 0.1, "trainer.accumulate": accumulate})
    run, result = train(tmp_path, config, data)
    module = new(config, data).module.train()
    optimizer, expected = build_optimizer(module, config.optimizer), []
    for batch in batches(config, data):
        weights = [p for p in module.parameters() if p.ndim > 1]
        penalty = sum(1e-2 * w.abs().sum() + 0.05 * w.square().sum() for w in weights)
        loss = F.cross_entropy(module(batch.x), batch.y) + penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert losses(run) == pytest.approx(expected, abs=1e-5)
    assert_close(state(result), module.state_dict())
    assert result.metrics["val_loss"] < losses(run)[-1], "no penalty in the validation loss"


# SAM


@pytest.mark.parametrize("extra", [{}, {**RESNET, "trainer.max_steps": 3}], ids=["mlp", "resnet"])
def test_sam_takes_the_gradient_of_the_worst_weights_nearby(tmp_path, data, extra):
    config = replace(BASE, {"optimizer.sam_rho": 0.5, **extra})
    run, result = train(tmp_path, config, data)
    module = new(config, data).module.train()
    optimizer, expected = build_optimizer(module, config.optimizer), []
    for batch in list(batches(config, data))[: config.trainer.max_steps]:
        optimizer.zero_grad()
        loss = F.cross_entropy(module(batch.x), batch.y)
        loss.backward()
        kept = {name: value.clone() for name, value in module.state_dict().items()}
        norm = torch.cat([p.grad.flatten() for p in module.parameters()]).norm()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(parameter.grad, alpha=float(0.5 / norm))
        optimizer.zero_grad()
        F.cross_entropy(module(batch.x), batch.y).backward()
        module.load_state_dict(kept)  # the statistics of BatchNorm, too
        optimizer.step()
        expected.append(loss.item())
    assert losses(run) == pytest.approx(expected, abs=1e-5)
    assert_close(state(result), module.state_dict())


def test_sam_leaves_out_a_step_whose_second_pass_is_not_finite(tmp_path, data, capsys):
    config = replace(BASE, {**RESNET, "optimizer.sam_rho": 0.1, "trainer.max_steps": 3})

    class Spoil(pl.Callback):
        """NaN in the second pass of the second step, and what was there after that step."""

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            original = type(pl_module).step.__get__(pl_module)
            pl_module.step = lambda batch: self.spoilt(pl_module, original(batch), batch_idx)
            self.before = {name: value.clone() for name, value in pl_module.model.state_dict().items()}

        def spoilt(self, task, result, batch_idx):
            bad = task._is_second_pass and batch_idx == 1
            return {**result, "loss": result["loss"] * math.nan} if bad else result

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch_idx == 1:
                after = pl_module.model.state_dict()
                assert all(torch.equal(value, after[name]) for name, value in self.before.items())

    run, _ = train(tmp_path, config, data, Spoil())
    assert [loss is None for loss in losses(run)] == [False, True, False]
    assert "this step is left out" in capsys.readouterr().err


def test_sam_cannot_do_with_smaller_micro_batches(tmp_path, data):
    """Out of memory in the second pass of the third step: what was saved is the state before that step."""
    config = replace(BASE, {**RESNET, "optimizer.sam_rho": 0.1})

    class Full(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            original = type(pl_module).step.__get__(pl_module)
            pl_module.step = lambda batch: self.allocate(pl_module, batch_idx) or original(batch)

        def allocate(self, task, batch_idx):
            if task._is_second_pass and batch_idx == 2:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    with pytest.raises(
        ScaledlError, match=r"optimizer\.sam_rho needs whole batches, so take a smaller data\.batch_size"
    ):
        train(tmp_path, config, data, Full())
    _, result = train(tmp_path / "two", replace(config, {"trainer.max_steps": 2}), data)
    [path] = (tmp_path / "t/one/checkpoints").glob("*.ckpt")
    saved = read_checkpoint(path)["state_dict"]
    assert all(torch.equal(value, saved[f"model.{name}"]) for name, value in state(result).items())


# Averages


def test_swa_is_the_mean_of_the_last_epochs_with_statistics_of_its_own(tmp_path, data):
    config = replace(BASE, {**SWA, "data": {"batch_size": 256, "augment": {"crop": 1}}})
    kept = []

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch_idx + 1 == trainer.num_training_batches:
                kept.append({name: value.clone() for name, value in pl_module.model.state_dict().items()})

    rates = Rates()
    run, result = train(tmp_path, config, data, Keep(), rates)
    assert [pair[0] for pair in rates.rates] == pytest.approx([0.1] * 12 + [0.05] * 12)
    module = new(config, data).module
    mean = {name: (kept[2][name] + kept[3][name]) / 2 for name, _ in module.named_parameters()}
    module.load_state_dict({**kept[3], **mean})
    loader = data.train_loader(256, config.data.augment, config.run.seed)
    loader.set_epoch(3)
    torch.optim.swa_utils.update_bn([batch.x for batch in loader], module)
    found = state(result)
    assert_close(found, {name: value for name, value in module.state_dict().items() if "num_batches" not in name})
    module.eval()
    batch = next(iter(data.eval_loader("val", len(data.val))))
    with torch.no_grad():
        expected = F.cross_entropy(module(batch.x), batch.y).item()
    assert result.metrics["val_loss"] == pytest.approx(expected, abs=1e-5)
    assert records(run, "val")[1]["val_loss"] != pytest.approx(records(run, "val")[3]["val_loss"])


def test_frozen_statistics_stay(tmp_path, data):
    class Freeze(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            for layer in pl_module.model.modules():
                if isinstance(layer, torch.nn.BatchNorm2d):
                    layer.eval()

    config = replace(BASE, {**SWA, "trainer.epochs": 2})
    _, result = train(tmp_path, config, data, Freeze())
    assert all(bool((value == 0).all()) for name, value in state(result).items() if name.endswith("running_mean"))


@pytest.mark.parametrize("swa_start", [0.3, 0.9])
def test_the_best_of_averaged_epochs_can_be_selected(tmp_path, data, swa_start):
    extra = {"trainer.swa_start": swa_start, "trainer.select": "best", "trainer.epochs": 4, "optimizer.lr": 0.5}
    run, result = train(tmp_path, replace(BASE, extra), data)
    assert result.metrics["val_loss"] == min(record["val_loss"] for record in records(run, "val"))
    batch = next(iter(data.eval_loader("val", len(data.val))))
    with torch.no_grad():
        loss = F.cross_entropy(result.model.module(batch.x), batch.y).item()
    assert loss == pytest.approx(result.metrics["val_loss"], abs=1e-5)


# Rates


def test_a_plateau_lowers_the_rate(tmp_path, data):
    config, rates = replace(BASE, PLATEAU), Rates()
    run, _ = train(tmp_path, config, data, rates)
    plateau, expected = Plateau(patience=0, gamma=0.5), [20.0]
    for record in records(run, "val"):
        expected.append(20.0 * plateau.after(record["val_loss"]))
    assert expected[2] < 20.0
    assert [rates.rates[epoch * STEPS][0] for epoch in range(4)] == pytest.approx(expected[:4])
    assert records(run, "train")[-1]["lr"] == pytest.approx(expected[3])


def test_a_group_has_its_share_of_the_rate(tmp_path, data):
    config, rates = replace(BASE, {"scheduler.name": "cosine", "transfer.lr_decay": 0.5}), Rates()
    _, result = train(tmp_path, config, data, rates)
    schedule = build_schedule(config.scheduler, STEPS, 2 * STEPS)
    for step, found in enumerate(rates.rates):
        full = 0.1 * schedule(step)
        assert sorted(set(found)) == pytest.approx(sorted({full, full / 2}))
    assert result.steps == 2 * STEPS


def test_gradients_are_clipped_by_value(tmp_path, data):
    largest = []

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            largest.append(max(float(p.grad.abs().max()) for p in pl_module.parameters()))

    train(tmp_path, replace(BASE, {"trainer.gradient_clip_value": 1e-3}), data, Look())
    assert largest == pytest.approx([1e-3] * 2 * STEPS)


# Going on


@pytest.mark.parametrize("steps", [7, 12, 15])
@pytest.mark.parametrize(
    "extra",
    [
        {"optimizer.sam_rho": 0.5},
        SWA,
        PLATEAU,
        {"optimizer": {"name": "ftrl", "l1": 0.1, "lr": 0.1}, "trainer.epochs": 3},
        {"optimizer": {"name": "adagrad_da", "l1": 0.01, "lr": 0.1}, "trainer.epochs": 3},
        {"optimizer": {"name": "muon", "lr": 0.01}, "trainer.epochs": 3},
        {"optimizer": {"name": "lamb", "lr": 0.01}, "trainer.epochs": 3},
    ],
    ids=["sam", "swa", "plateau", "ftrl", "adagrad_da", "muon", "lamb"],
)
def test_resume_is_bit_exact(tmp_path, data, whole_of, steps, extra):
    config = replace(BASE, {"trainer.epochs": 3, **extra})
    uninterrupted, expected = whole_of(config)
    try:
        with pytest.raises(Preempted):
            train(tmp_path, config, data, StopAt(steps))
    finally:
        stop_flag.signum = None
    run, result = train(tmp_path, config, data)
    assert all(torch.equal(value, state(expected)[name]) for name, value in state(result).items())
    assert losses(run) == losses(uninterrupted)
    assert [r["lr"] for r in records(run, "train")][-1] == [r["lr"] for r in records(uninterrupted, "train")][-1]
    assert records(run, "val") == records(uninterrupted, "val")
    assert result.metrics == expected.metrics


@pytest.fixture(scope="module")
def whole_of(data, tmp_path_factory):
    """An uninterrupted training, once for each config."""
    done = {}

    def get(config):
        key = config.model_dump_json()
        if key not in done:
            done[key] = train(tmp_path_factory.mktemp("whole"), config, data)
        return done[key]

    return get
