"""`fit` against hand-written PyTorch: same data, same initial weights, one thread."""

import copy
import json
import math

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from scaledl.config import Config, replace
from scaledl.data import build_data
from scaledl.models.quantized import prepare_qat
from scaledl.models.structure import new_model
from scaledl.optim.schedules import build_schedule
from scaledl.run import Run
from scaledl.tasks.distillation import soft_targets_loss
from scaledl.train import fit

pytestmark = pytest.mark.numerics

BASE = Config.model_validate(
    {
        "model": {"family": "mlp", "hidden": [16]},
        "data": {"batch_size": 128, "augment": {"crop": 1, "flip": True}},
        "task": {"label_smoothing": 0.1},
        "scheduler": {"name": "cosine", "warmup_epochs": 0.5, "min_lr_ratio": 0.1},
        "trainer": {"epochs": 3, "precision": "fp32", "num_threads": 1, "gradient_clip": 1.0},
    }
)
OPTIMIZERS = {
    "sgd": {"optimizer.name": "sgd", "optimizer.lr": 0.1, "optimizer.weight_decay": 1e-3},
    "adamw": {"optimizer.name": "adamw", "optimizer.lr": 0.01, "optimizer.weight_decay": 0.1},
}
RESNET = {"model": {"family": "resnet", "depth": 8, "width": 8}, "trainer.epochs": 1, "data.batch_size": 256}


@pytest.fixture(scope="module")
def data():
    return build_data(BASE.data, 0)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def new(config, data, seed=0):
    return new_model(config.model, data.spec.in_shape, data.spec.num_classes, seed)


def train(folder, config, data, model=None, **more):
    run = Run.create(folder, "t", config=config)
    run.begin()
    result = fit(config, run, data, model or new(config, data), **more)
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    return result, [loss for line in lines if line["kind"] == "train" for loss in line["losses"]]


def manual_optimizer(module, config):
    decayed = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim <= 1]
    settings = config.optimizer.settings()
    decay = settings["weight_decay"]
    groups = [{"params": decayed, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    if config.optimizer.name == "sgd":
        return torch.optim.SGD(groups, lr=1.0, momentum=settings["momentum"], nesterov=True)
    return torch.optim.AdamW(groups, lr=1.0, betas=settings["betas"])


def manual_rate(config, step, steps_per_epoch):
    """Warm-up over half an epoch, then half a cosine down to a tenth."""
    warmup, total = round(0.5 * steps_per_epoch), config.trainer.epochs * steps_per_epoch
    rise = min((step + 1) / warmup, 1.0)
    done = min(max(step - warmup, 0) / (total - warmup), 1.0)
    return config.optimizer.lr * rise * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def manual_loop(config, data, loss_fn=None, after_step_fn=lambda module, step: None):
    module = new(config, data).module.train()
    optimizer = manual_optimizer(module, config)
    loader = data.train_loader(config.data.batch_size, config.data.augment, config.run.seed)
    losses = []
    for epoch in range(config.trainer.epochs):
        loader.set_epoch(epoch)
        for batch in loader:
            logits = module(batch.contiguous().x)
            loss = F.cross_entropy(logits, batch.y, label_smoothing=config.task.label_smoothing)
            loss = loss if loss_fn is None else loss_fn(batch, logits, loss)
            optimizer.zero_grad()
            loss.backward()
            if config.trainer.gradient_clip:
                torch.nn.utils.clip_grad_norm_(module.parameters(), config.trainer.gradient_clip)
            for group in optimizer.param_groups:
                group["lr"] = manual_rate(config, len(losses), len(loader))
            optimizer.step()
            losses.append(loss.item())
            after_step_fn(module, len(losses))
    return module.eval(), losses


def assert_equal_weights(a, b, tolerance):
    expected = b.state_dict()
    for name, value in a.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fit_equals_a_hand_written_loop(tmp_path, data, name):
    config = replace(BASE, OPTIMIZERS[name])
    result, losses = train(tmp_path, config, data)
    module, expected = manual_loop(config, data)
    assert losses == pytest.approx(expected, abs=1e-6)
    assert_equal_weights(result.model.module, module, 1e-6)
    assert min(losses) < 0.85 * losses[0], "it has to learn, or the parity says little"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_validation_metrics_are_those_of_the_final_weights(tmp_path, data, name):
    result, _ = train(tmp_path, replace(BASE, OPTIMIZERS[name]), data)
    batch = next(iter(data.eval_loader("val", len(data.val))))
    with torch.no_grad():
        logits = result.model.module(batch.x)
    assert result.metrics["val_loss"] == pytest.approx(F.cross_entropy(logits, batch.y).item(), abs=1e-6)
    assert result.metrics["val_accuracy"] == pytest.approx((logits.argmax(1) == batch.y).float().mean().item())


def test_a_resnet_equals_a_hand_written_loop(tmp_path, data):
    config = replace(BASE, {**OPTIMIZERS["sgd"], **RESNET, "trainer.channels_last": False})
    result, losses = train(tmp_path, config, data)
    module, expected = manual_loop(config, data)
    assert losses == pytest.approx(expected, abs=1e-5)
    assert_equal_weights(result.model.module, module, 1e-4)


def test_channels_last_equals_contiguous(tmp_path, data):
    wide = {**RESNET, "model": {**RESNET["model"], "width": 16}}  # narrower, it would not be channels_last
    # Rounding differs, and BatchNorm makes more of it with every step that is not small.
    config = replace(BASE, {**OPTIMIZERS["sgd"], **wide, "optimizer.lr": 1e-3})
    (last, losses), (contiguous, expected) = (
        train(tmp_path, replace(config, {"trainer.channels_last": value}), data) for value in (True, False)
    )
    assert losses == pytest.approx(expected, abs=1e-4)
    assert_equal_weights(last.model.module, contiguous.model.module, 1e-3)
    assert all(p.is_contiguous() for p in last.model.module.parameters())


def test_the_schedule_has_the_rates_of_the_one_by_hand():
    schedule = build_schedule(BASE.scheduler, 11, 33)
    assert [BASE.optimizer.lr * schedule(step) for step in range(33)] == pytest.approx(
        [manual_rate(BASE, step, 11) for step in range(33)]
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("accumulate", [2, 8])
def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path, data, name, accumulate):
    config = replace(BASE, OPTIMIZERS[name])
    result, losses = train(tmp_path, replace(config, {"trainer.accumulate": accumulate}), data)
    module, expected = manual_loop(config, data)
    assert losses == pytest.approx(expected, abs=1e-5)
    assert_equal_weights(result.model.module, module, 1e-4 if name == "adamw" else 1e-5)


def test_the_moving_average_is_its_formula(tmp_path, data):
    config = replace(BASE, {**OPTIMIZERS["sgd"], "trainer.ema_decay": 0.95})
    average = {name: value.clone() for name, value in new(config, data).module.state_dict().items()}

    def update(module, step):
        decay = min(0.95, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            average[name] = decay * average[name] + (1 - decay) * value.detach()

    result, losses = train(tmp_path, config, data)
    module, expected = manual_loop(config, data, after_step_fn=update)
    assert losses == pytest.approx(expected, abs=1e-6), "validation on averaged weights must not touch the training"
    for name, value in result.model.module.state_dict().items():
        torch.testing.assert_close(value, average[name], rtol=0, atol=2e-6)
    module.load_state_dict(average)
    batch = next(iter(data.eval_loader("val", len(data.val))))
    with torch.no_grad():
        assert result.metrics["val_loss"] == pytest.approx(F.cross_entropy(module(batch.x), batch.y).item(), abs=1e-5)


def test_the_moving_average_of_a_quantizing_model_has_finite_ranges(tmp_path, data):
    config = replace(BASE, {**RESNET, "trainer.ema_decay": 0.9})
    prepared = prepare_qat(new(config, data), config.export.engine)
    result, _ = train(tmp_path, config, data, prepared)
    state = result.model.module.state_dict()
    ranges = {name: value for name, value in state.items() if name.endswith(("min_val", "max_val"))}
    assert ranges
    assert all(bool(value.isfinite().all()) for value in ranges.values())
    assert result.metrics["val_loss"] < 2.4


def test_distillation_equals_a_hand_written_loop(tmp_path, data, monkeypatch):
    config = replace(BASE, OPTIMIZERS["sgd"])
    teacher_model = new(config, data, seed=3)
    teacher = teacher_model.module.eval()
    before = copy.deepcopy(teacher.state_dict())

    def loss_fn(batch, logits, own):
        log_p, q = F.log_softmax(logits / 3, 1), F.softmax(teacher(batch.x).detach() / 3, 1)
        return 0.3 * own + 0.7 * (q * (q.log() - log_p)).sum(1).mean() * 9

    for feature in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):  # else the teacher answers in bf16
        monkeypatch.setattr(torch.cpu, feature, lambda: False)
    result, losses = train(tmp_path, config, data, teacher=teacher_model, teacher_weight=0.7, temperature=3.0)
    module, expected = manual_loop(config, data, loss_fn)
    assert losses == pytest.approx(expected, abs=1e-5)
    assert_equal_weights(result.model.module, module, 1e-5)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_of_soft_targets_is_the_one_of_the_formula(temperature):
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(5, 4, generator=generator, dtype=torch.float64).float().requires_grad_()
    teacher = torch.randn(5, 4, generator=generator)
    (gradient,) = torch.autograd.grad(soft_targets_loss(student, teacher, temperature), student)
    # d/dz of T² KL(q || p) is T (p - q), averaged over the batch
    expected = temperature * (F.softmax(student / temperature, 1) - F.softmax(teacher / temperature, 1)) / 5
    torch.testing.assert_close(gradient, expected.detach(), rtol=1e-5, atol=1e-6)


def test_bf16_trains_with_float32_weights_near_the_float32_run(tmp_path, data):
    config = replace(BASE, {**OPTIMIZERS["sgd"], "trainer.epochs": 4})
    full, expected = train(tmp_path, config, data)
    half, losses = train(tmp_path, replace(config, {"trainer.precision": "bf16"}), data)
    assert all(p.dtype == torch.float32 for p in half.model.module.parameters())
    assert losses == pytest.approx(expected, abs=0.05)
    assert losses != expected
    assert half.metrics["val_accuracy"] == pytest.approx(full.metrics["val_accuracy"], abs=0.05)


def test_the_norm_of_clipped_gradients_is_the_limit(tmp_path, data):
    norms = []

    class Look(pl.Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            gradients = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
            if gradients:
                norms.append(torch.cat(gradients).norm().item())

    train(tmp_path, replace(BASE, {**OPTIMIZERS["sgd"], "trainer.gradient_clip": 0.01}), data, callbacks=[Look()])
    assert len(norms) >= 20
    assert norms == pytest.approx([0.01] * len(norms), rel=1e-3)
