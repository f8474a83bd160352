"""Finding a learning rate and a batch size: what is suggested, and that nothing is left behind."""

import json
import math
from pathlib import Path

import pytest

from scaledl import api
from scaledl.cli import main
from scaledl.config import Config, replace
from scaledl.errors import UsageError
from scaledl.train import find_batch_size as batch_sizes
from scaledl.train.find_batch_size import Measured, choose, growing
from scaledl.train.find_lr import smoothed_losses, steepest
from scaledl.train.rehearsal import Rehearsal

pytestmark = pytest.mark.unit

BASE = Config.model_validate(
    {
        "model": {"family": "mlp", "hidden": [8]},
        "data": {"batch_size": 64},
        "optimizer": {"name": "sgd"},
        "trainer": {"precision": "fp32", "num_threads": 1},
    }
)
MODEL = "model={family: mlp, hidden: [8]}"
ARGUMENTS = [MODEL, "optimizer.name=sgd", "trainer.precision=fp32", "trainer.num_threads=1"]


@pytest.fixture(autouse=True)
def _nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(Path().iterdir())


def test_the_steepest_fall_of_a_bowl_is_found():
    rates = [10 ** (k / 10 - 5) for k in range(60)]
    losses = [2.0 - 1.5 / (1 + math.exp(-6 * (math.log10(rate) + 2))) for rate in rates]  # falls around 1e-2
    assert steepest(rates, [*losses[:45], *[loss + 5 for loss in losses[45:]]]) == pytest.approx(1e-2, rel=0.3)
    assert steepest(rates, [1.0 + k for k in range(60)]) is None


def test_a_jump_of_the_first_losses_is_no_fall():
    rates = [10 ** (k / 10 - 5) for k in range(60)]
    losses = [2.0 - 0.1 / (1 + math.exp(-6 * (math.log10(rate) + 2))) for rate in rates]
    assert steepest(rates, [3.0, 2.5, *losses[2:]]) == pytest.approx(1e-2, rel=0.3)


def test_losses_are_averaged_until_they_explode():
    given = iter([1.0, 1.0, 0.5, math.nan, 0.1])
    assert list(smoothed_losses([1.0] * 5, lambda rate: next(given))) == pytest.approx([1.0, 1.0, 0.8155], abs=1e-3)
    assert len(list(smoothed_losses([1.0] * 5, lambda rate: 1.0))) == 5
    large = iter([1.0, 1.0, 90.0, 1.0])
    assert len(list(smoothed_losses([1.0] * 4, lambda rate: next(large)))) == 2


def test_a_rate_that_is_suggested_trains():
    found = api.find_lr(BASE, steps=60)
    assert found.suggestion is not None
    assert 1e-3 < found.suggestion < 3
    assert found.suggestion < found.rates[found.lowest]
    again = api.find_lr(BASE, steps=60)
    assert (again.rates, again.losses, again.suggestion) == (found.rates, found.losses, found.suggestion)


def test_micro_batches_make_the_same_test():
    whole = api.find_lr(BASE, steps=12, high=0.1)
    split = api.find_lr(replace(BASE, {"trainer.accumulate": 4}), steps=12, high=0.1)
    assert split.losses == pytest.approx(whole.losses, abs=1e-5)


def test_the_size_grows_as_long_as_it_pays():
    def seconds(size):  # no faster beyond 32
        return 0.1 * max(1.0, size / 32)

    measured = list(growing(seconds, 10_000))
    assert [one.batch_size for one in measured] == [2, 4, 8, 16, 32, 64, 128]
    assert choose(measured) == 32
    assert [one.batch_size for one in growing(seconds, 20)] == [2, 4, 8, 16]
    assert [one.batch_size for one in growing(seconds, 1)] == [1]
    assert choose([Measured(2, None)]) is None


def test_what_does_not_fit_ends_it(monkeypatch):
    step = Rehearsal.step

    def narrow(self, batches, lr):
        if len(batches[0].ids) > 8:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return step(self, batches, lr)

    monkeypatch.setattr(Rehearsal, "step", narrow)
    monkeypatch.setattr(batch_sizes, "SECONDS", 0.0)
    monkeypatch.setattr(batch_sizes, "WORTHWHILE", 0.0)
    measured = api.find_batch_size(BASE)
    assert [one.batch_size for one in measured if one.seconds is not None] == [2, 4, 8]
    assert measured[-1] == Measured(16, None)


def test_a_size_that_the_system_would_kill_for_is_not_tried(monkeypatch):
    monkeypatch.setattr(batch_sizes, "SECONDS", 0.0)
    monkeypatch.setattr(batch_sizes, "available_memory", lambda: -1)
    assert [(one.batch_size, one.seconds) for one in api.find_batch_size(BASE)] == [(2, None)]


def test_other_errors_are_errors(monkeypatch):
    def broken(self, batches, lr):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(Rehearsal, "step", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        api.find_batch_size(BASE)


def test_find_lr_as_a_command(capsys):
    assert main(["find", "lr", *ARGUMENTS, "--steps", "20", "--from", "1e-4"]) == 0
    out = capsys.readouterr().out
    assert "steepest fall" in out
    suggestion = float(out.strip().splitlines()[-1].removeprefix("suggestion  optimizer.lr="))
    assert main(["find", "lr", *ARGUMENTS, "--steps", "20", "--from", "1e-4", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert float(f"{document['suggestion']:.2g}") == suggestion
    assert document["line"] == f"optimizer.lr={suggestion:g}"
    assert len(document["rates"]) == len(document["losses"])


def test_precision_is_chosen_once_for_all_sizes(capsys, monkeypatch):
    monkeypatch.setattr(batch_sizes, "_median_step", lambda rehearsal, size, lr: 0.1 * max(1.0, size / 8))
    assert main(["find", "batch_size", *ARGUMENTS, "trainer.precision=auto"]) == 0
    said = capsys.readouterr()
    assert (said.out + said.err).count("precision auto") <= 1


def test_find_batch_size_as_a_command(capsys, monkeypatch):
    monkeypatch.setattr(batch_sizes, "SECONDS", 0.0)
    monkeypatch.setattr(batch_sizes, "_median_step", lambda rehearsal, size, lr: 0.1 * max(1.0, size / 32))
    assert main(["find", "batch_size", *ARGUMENTS, "trainer.devices=2", "data.batch_size=256"]) == 0
    out = capsys.readouterr().out
    assert "suggestion  data.batch_size=64, or for batches as they are trainer.accumulate=4" in out
    assert main(["find", "batch_size", *ARGUMENTS, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["suggestion"] == 32


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lr", "--from", "1", "--to", "0.1"], "--from, --to: got 1 and 0.1; allowed: numbers greater than 0"),
        (["lr", "--from", "fast"], "--from: got 'fast'; allowed: a number greater than 0, such as 1e-5"),
        (["lr", "--steps", "2"], "--steps: got '2'; allowed: whole numbers from 10"),
        (["batch_size", "trainer.strategy=deepspeed"], "trainer.strategy: got deepspeed; allowed with find: auto, ddp"),
        (["lr", "optimizer.lr=-1"], "config error: optimizer.lr"),
    ],
)
def test_what_makes_no_sense_is_told(capsys, arguments, words):
    assert main(["find", arguments[0], *arguments[1:]]) == 2
    assert words in capsys.readouterr().err


def test_zero_cannot_be_tried_here():
    with pytest.raises(UsageError, match="`scaledl plan` estimates"):
        api.find_lr(replace(BASE, {"trainer.strategy": "deepspeed"}))
