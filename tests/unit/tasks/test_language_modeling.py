"""The next token, and tokens that are hidden."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models
from torch import nn

from scaledl.data import Batch, DataModule
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

LETTERS = "_?abcdefgh"  # padding, unknown, and eight letters


def letters() -> str:
    vocabulary = {"[PAD]": 0, "[UNK]": 1} | {letter: i for i, letter in enumerate("abcdefgh", 2)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="[UNK]"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["[PAD]"])
    return tokenizer.to_str()


@pytest.fixture(scope="module")
def walks(make_data: Callable[..., DataModule]) -> DataModule:
    """Rows of letters of which each follows, three times in four, from the one before; a fifth ends early."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 10, (240, 16), generator=generator)
    for step in range(1, 16):
        go_on = torch.rand(240, generator=generator) < 0.75
        ids[:, step] = torch.where(go_on, 2 + (ids[:, step - 1] - 2 + 3) % 8, ids[:, step])
    ids[::5, 11:] = 0
    labels = torch.zeros(240, dtype=torch.int64)
    more = {"kind": "text", "vocabulary": 10, "tokenizer": letters()}
    return make_data(ids, labels, (), "none", **more)


def entropy_of_walks() -> float:
    """What a step of the walk is uncertain by, nats."""
    likely, other = 0.75 + 0.25 / 8, 0.25 / 8
    return -likely * math.log(likely) - 7 * other * math.log(other)


def test_it_learns_what_comes_next(train: Callable[..., Any], walks: DataModule) -> None:
    task = {"name": "language_modeling", "metrics": ["accuracy", "bits_per_token"]}
    trained = train(walks, task, "causal_tokens", **{"trainer.epochs": 8})
    assert list(trained.after.metrics) == ["loss", "perplexity", "bits_per_character", "accuracy", "bits_per_token"]
    assert trained.before.score > 7
    assert trained.after.score == pytest.approx(math.exp(entropy_of_walks()), rel=0.2)
    assert trained.after.metrics["accuracy"] > 0.7
    assert trained.after.confusion is None
    # each token of these texts is one character
    assert trained.after.metrics["bits_per_character"] == pytest.approx(math.log2(trained.after.score), rel=1e-4)


def test_padding_is_no_target_and_the_last_step_has_none(around: Callable[..., Any], walks: DataModule) -> None:
    logits = torch.randn(2, 10, 4, generator=torch.Generator().manual_seed(0))
    x = torch.tensor([[2, 3, 4, 5], [6, 7, 0, 0]])
    task = around(nn.Identity(), walks, {"name": "language_modeling"})
    task.model.forward = lambda x: logits  # type: ignore[method-assign]
    first = F.cross_entropy(logits[0, :, :3].T, x[0, 1:])
    second = F.cross_entropy(logits[1, :, :1].T, x[1, 1:2])
    batch = Batch(x, torch.zeros(2), torch.arange(2))
    torch.testing.assert_close(task.step(batch)["loss"], (first + second) / 2)  # texts weigh the same
    task.on_validation_epoch_start()
    task.validation_step(batch, 0)
    nats = (3 * first + second) / 4  # tokens weigh the same
    assert float(task.evaluated()["perplexity"]) == pytest.approx(float(nats.exp()), rel=1e-5)


def test_a_model_that_sees_what_it_is_to_predict_is_refused(walks: DataModule) -> None:
    import tiny_families

    from scaledl.runtime.signature import Outputs
    from scaledl.tasks.language_modeling import LanguageModelingTask

    outputs = Outputs(10, "steps")
    causal = tiny_families.causal_tokens({}, walks.spec.inputs, outputs)
    LanguageModelingTask.check_model(causal, walks.spec, "causal")
    both = tiny_families.two_way_tokens({}, walks.spec.inputs, outputs)
    with pytest.raises(UsageError, match=r"model\.family: got both, .* depends on later ones"):
        LanguageModelingTask.check_model(both, walks.spec, "both")


def test_images_have_no_tokens(make_data: Callable[..., DataModule], around: Callable[..., Any]) -> None:
    images = torch.zeros(20, 4, 4, 1, dtype=torch.uint8)
    data = make_data(images, torch.zeros(20, dtype=torch.int64), ("a", "b"), "class")
    for name in ("language_modeling", "masked_language_modeling"):
        with pytest.raises(UsageError, match=f"got {name}, .* are of modality image; allowed: texts"):
            around(nn.Identity(), data, {"name": name})


def test_hidden_tokens_are_learned(train: Callable[..., Any], walks: DataModule) -> None:
    task = {"name": "masked_language_modeling", "mask_ratio": 0.2}
    trained = train(walks, task, "two_way_tokens", **{"trainer.epochs": 12})
    assert list(trained.after.metrics) == ["loss", "perplexity", "accuracy"]
    assert trained.before.metrics["accuracy"] < 0.3
    assert trained.after.metrics["accuracy"] > 0.6
    assert trained.after.score < 0.5 * trained.before.score


def test_what_is_hidden_follows_from_seed_epoch_and_sample_alone(around: Callable[..., Any], walks: DataModule) -> None:
    task = around(nn.Identity(), walks, {"name": "masked_language_modeling", "mask_ratio": 0.25})
    task.model.forward = lambda x: torch.zeros(len(x), 10, x.shape[1])  # type: ignore[method-assign]
    x, ids = walks.train.inputs[:10], walks.train.ids[:10]
    whole = task.step(Batch(x, ids, ids))
    parts = [task.step(Batch(x[rows], ids[rows], ids[rows])) for rows in (slice(0, 3), slice(3, 10))]
    assert torch.equal(torch.cat([part["input"] for part in parts]), whole["input"])
    hidden = whole["truths"] != -100
    assert hidden.sum(1).tolist() == [3 if x[i, -1] == 0 else 4 for i in range(10)]  # a quarter of 11 or 16
    assert not (hidden & (x == 0)).any()
    assert torch.equal(whole["input"][~hidden], x[~hidden])
    task.seed = 1
    assert not torch.equal(task.step(Batch(x, ids, ids))["truths"], whole["truths"])


def test_eight_of_ten_hidden_tokens_are_masks(around: Callable[..., Any], walks: DataModule) -> None:
    task = around(nn.Identity(), walks, {"name": "masked_language_modeling", "mask_ratio": 0.9})
    task.model.forward = lambda x: torch.zeros(len(x), 10, x.shape[1])  # type: ignore[method-assign]
    x, ids = walks.train.inputs, walks.train.ids
    result = task.step(Batch(x, ids, ids))
    hidden = result["truths"] != -100
    shown, true = result["input"][hidden], x[hidden]
    assert float((shown == 1).double().mean()) == pytest.approx(0.8 + 0.1 / 9, abs=0.03)
    assert float((shown == true).double().mean()) == pytest.approx(0.1 + 0.1 / 9, abs=0.03)
