"""Two views of a sample: contrastive learning, and labels that are missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from scaledl.compress.prune import accumulate_gradients_
from scaledl.config.schema import AugmentConfig, TaskConfig
from scaledl.data import Batch, DataModule, normalize
from scaledl.distributed.preemption import stop_flag
from scaledl.errors import Preempted, UsageError
from scaledl.tasks.pairs import nt_xent, triplet
from scaledl.tasks.views import PairedLoader
from scaledl.train import fit

pytestmark = pytest.mark.unit

AUGMENT = {"data.augment.crop": 1, "data.augment.brightness": 0.4}


@pytest.fixture(scope="module")
def digits(make_data: Callable[..., DataModule]) -> DataModule:
    found = load_digits()
    images = torch.tensor(found.images[:800] * 15).to(torch.uint8).unsqueeze(-1)
    return make_data(images, torch.tensor(found.target[:800]), tuple("0123456789"), "class")


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_nt_xent_is_the_formula_of_the_paper() -> None:
    first, second = normal(4, 3), normal(4, 3) + 0.3
    both, losses = [*first, *second], []
    for i in range(8):
        j = (i + 4) % 8
        similar = [float(torch.exp(F.cosine_similarity(both[i], other, dim=0) / 0.5)) for other in both]
        others = sum(similar) - similar[i]
        losses.append(-torch.log(torch.tensor(similar[j] / others)))
    found = nt_xent(first, second, TaskConfig(name="contrastive", temperature=0.5))
    assert found.shape == (4,)
    assert float(found.mean()) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


def test_triplet_looks_at_the_nearest_other_sample() -> None:
    first, second = F.normalize(normal(5, 3), dim=1), F.normalize(normal(5, 3) + 1, dim=1)
    expected = []
    for i in range(5):
        own = (first[i] - second[i]).norm()
        others = min((first[i] - second[j]).norm() for j in range(5) if j != i)
        expected.append(torch.clamp(own - others + 0.2, min=0))
    found = triplet(3 * first, second, TaskConfig(name="contrastive", margin=0.2))
    torch.testing.assert_close(found, torch.stack(expected))
    assert float(triplet(first[:1], second[:1], TaskConfig(name="contrastive"))) == 0  # there is nobody else


@pytest.mark.parametrize("loss", [{"loss": "nt_xent", "temperature": 0.1}, {"loss": "triplet"}])
def test_views_find_each_other(train: Callable[..., Any], digits: DataModule, loss: dict[str, Any]) -> None:
    task = {"name": "contrastive", "embedding": 16, **loss}
    sizes = {"data.batch_size": 80, "data.eval_batch_size": 80, "trainer.epochs": 6}
    trained = train(digits, task, **{"data.augment.noise": 0.2}, **sizes)
    assert list(trained.after.metrics) == ["loss", "pair_accuracy"]
    assert trained.before.score < 0.25 < 0.4 < trained.after.score
    assert trained.after.loss < 0.7 * trained.before.loss
    assert trained.result.model.module(torch.zeros(2, 1, 8, 8)).shape == (2, 16)
    again = trained.evaluated(trained.result.model)
    assert again.metrics == trained.after.metrics  # both views are the same in every evaluation


def test_it_needs_views_that_differ(train: Callable[..., Any], digits: DataModule) -> None:
    with pytest.raises(UsageError, match=r"data\.augment: nothing is on"):
        train(digits, {"name": "contrastive"})


def test_both_views_are_functions_of_seed_epoch_and_sample(digits: DataModule) -> None:
    augment = AugmentConfig(crop=1, brightness=0.4)
    views = (augment, augment)
    loader = PairedLoader(digits.train, digits.spec, 10, views, shuffle=True, seed=3)
    first = next(iter(loader))
    one, other = first.x.chunk(2)
    assert len(first.ids) == 10
    assert not torch.equal(one, other)
    halves = [
        next(iter(PairedLoader(digits.train, digits.spec, 10, views, shuffle=True, seed=3, rank=rank, world_size=2)))
        for rank in range(2)
    ]
    torch.testing.assert_close(torch.cat([half.x.chunk(2)[1] for half in halves]), other, rtol=0, atol=0)
    loader.set_epoch(1)
    assert not torch.equal(next(iter(loader)).x, first.x)
    fixed = PairedLoader(digits.val, digits.spec, 10, views, seed=3, fixed=True)
    once = next(iter(fixed)).x
    fixed.set_epoch(5)
    assert torch.equal(next(iter(fixed)).x, once)


class StopAt(pl.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            stop_flag.signum = 15


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ({"name": "contrastive", "embedding": 8}, AUGMENT),
        ({"name": "semi_supervised", "unlabeled_fraction": 0.9, "confidence": 0.3}, AUGMENT),
    ],
)
def test_resume_is_exact(train: Callable[..., Any], digits: DataModule, task: dict[str, Any], changes: Any) -> None:
    whole = train(digits, task, **changes, **{"trainer.epochs": 2, "data.batch_size": 60})
    cut = train(digits, task, **changes, **{"trainer.epochs": 1, "data.batch_size": 60})
    run, config = whole.run.create(cut.run.path.parent.parent, "cut", config=whole.config), whole.config
    run.begin()
    torch.manual_seed(0)
    start = _fresh(whole, digits)
    try:
        with pytest.raises(Preempted):
            fit(config, run, digits, start, callbacks=[StopAt(5)])
    finally:
        stop_flag.signum = None
    result = fit(config, run, digits, _fresh(whole, digits))
    assert result.metrics == whole.result.metrics
    for name, value in result.model.module.state_dict().items():
        assert torch.equal(value, whole.result.model.module.state_dict()[name]), name


def _fresh(whole: Any, data: DataModule) -> Any:
    from scaledl.tasks.model import model_for

    return model_for(whole.config, data.spec)


def test_labels_that_are_missing_are_made_up_for(train: Callable[..., Any], digits: DataModule) -> None:
    """Of 480 samples about 38 have a label."""
    task = {"name": "semi_supervised", "unlabeled_fraction": 0.92, "confidence": 0.6}
    plan = {"data.augment.noise": 0.1, "trainer.epochs": 20, "data.batch_size": 60}
    trained, without = (train(digits, {**task, "unlabeled_weight": weight}, **plan) for weight in (1.0, 0.0))
    assert trained.after.headline == "accuracy"
    assert trained.after.score > 0.55
    x = normalize(digits.test.inputs, digits.spec)
    sure = [one.result.model.module(x).softmax(1).max(1).values.mean().item() for one in (trained, without)]
    assert sure[0] > sure[1] + 0.02


def test_both_losses_are_means_in_expectation(around: Callable[..., Any], digits: DataModule) -> None:
    task = around(
        nn.Identity(), digits, {"name": "semi_supervised", "unlabeled_fraction": 0.5, "confidence": 0.6}
    ).train()
    task.prepare(digits)
    y, ids = digits.train.labels[:40], digits.train.ids[:40]
    logits = 4 * normal(80, 10)
    labeled = task._is_labeled(ids, y)
    assert 10 < int(labeled.sum()) < 30
    share = float(task._is_labeled(digits.train.ids, digits.train.labels).double().mean())
    plain, augmented = logits.chunk(2)
    sure, guess = plain.softmax(1).max(1)
    known = F.cross_entropy(augmented, y, reduction="none")[labeled].sum() / 40 / share
    made_up = F.cross_entropy(augmented, guess, reduction="none")[~labeled & (sure >= 0.6)].sum() / 40 / (1 - share)
    result = task.step(Batch(logits, y, ids))
    torch.testing.assert_close(result["loss"], known + made_up)
    torch.testing.assert_close(result["output"], augmented)


def test_a_label_of_minus_one_is_none(around: Callable[..., Any], digits: DataModule) -> None:
    task = around(nn.Identity(), digits, {"name": "semi_supervised"}).train()
    assert task._is_labeled(torch.arange(4), torch.tensor([0, -1, 3, -1])).tolist() == [True, False, True, False]
    nothing = digits.train.__class__(digits.train.inputs, digits.train.labels * 0 - 1, digits.train.ids)
    with pytest.raises(UsageError, match="no sample is left with a label"):
        task.prepare(DataModule(digits.spec, nothing, digits.val, digits.test))


def test_gradients_for_pruning_are_those_of_both_views(digits: DataModule, around: Callable[..., Any]) -> None:
    """In eval mode, as pruning looks at a training batch."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    task = around(model, digits, {"name": "semi_supervised", "unlabeled_fraction": 0.5, "confidence": 0.0})
    accumulate_gradients_(task, iter(task.train_loader(digits, 16, AugmentConfig())))
    assert float(model[1].weight.grad.abs().sum()) > 0
