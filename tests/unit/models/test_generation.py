"""Generation: the cache against computing everything anew, and what may be drawn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from scaledl.compress.prune import plan_pruning
from scaledl.config.schema import GPTConfig, LSTMConfig, PruneConfig
from scaledl.models.generation import CachedGPT, choose, generate, restricted
from scaledl.models.structure import new_model
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.unit

CONTEXT = 12
TEXT, LOGITS = Inputs("text", (CONTEXT,), vocabulary=30), Outputs(30, "steps")
SHARES = torch.tensor([[0.0, 0.4, 0.1, 0.3, 0.2]])


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def gpt(**keys: Any) -> Any:
    config = GPTConfig(family="gpt", **{"width": 16, "heads": 2, "layers": 2, **keys})
    model = new_model(config, TEXT, LOGITS, seed=0).module.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("prompt", [1, 5, CONTEXT, CONTEXT + 4])
@torch.no_grad()
def test_the_cache_changes_nothing_within_and_beyond_the_context(prompt: int) -> None:
    model = gpt()
    cached, ids = CachedGPT(model), torch.randint(1, 30, (3, prompt))
    for _ in range(CONTEXT + 5):
        expected = model(ids[:, -CONTEXT:])[:, :, -1]
        torch.testing.assert_close(cached(ids), expected, atol=2e-5, rtol=2e-5)
        ids = torch.cat([ids, expected.argmax(1, keepdim=True)], 1)


@torch.no_grad()
def test_a_pruned_head_is_no_matter() -> None:
    model = gpt(heads=4)
    plan_pruning(model, TEXT, PruneConfig(round_to=4)).execute_()
    ids = torch.randint(1, 30, (2, 6))
    assert torch.equal(with_cache(model, ids), without(model, ids))


def with_cache(model: Any, ids: Tensor) -> Tensor:
    return generate(model, ids, 8, context=CONTEXT, temperature=0)


def without(model: Any, ids: Tensor) -> Tensor:
    return generate(lambda x: model(x), ids, 8, context=CONTEXT, temperature=0)


def test_draws_are_those_of_the_seed() -> None:
    model, ids = gpt(), torch.randint(1, 30, (1, 3))

    def written(seed: int) -> list[int]:
        return generate(model, ids, 20, context=CONTEXT, generator=torch.Generator().manual_seed(seed))[0].tolist()

    before = torch.get_rng_state()
    assert written(1) == written(1) != written(2)
    assert written(1)[:3] == ids[0].tolist()
    assert 0 not in written(1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_recurrent_model_writes_too() -> None:
    model = new_model(LSTMConfig(family="lstm", hidden=8, embedding=8), TEXT, LOGITS, seed=0).module.eval()
    assert generate(model, torch.tensor([[3]]), 20, context=CONTEXT).shape == (1, 21)


@pytest.mark.parametrize(
    ("top_k", "top_p", "allowed"),
    [
        (None, 1.0, {0, 1, 2, 3, 4}),
        (2, 1.0, {1, 3}),
        (9, 1.0, {0, 1, 2, 3, 4}),
        (None, 0.69, {1, 3}),
        (None, 0.71, {1, 3, 4}),
        (None, 0.0, {1}),
        (1, 0.5, {1}),
    ],
)
def test_what_may_be_drawn(top_k: int | None, top_p: float, allowed: set[int]) -> None:
    left = restricted((SHARES + 1e-9).log(), top_k, top_p)[0]
    assert {int(place) for place in left.isfinite().nonzero()} == allowed


@torch.no_grad()
def test_tokens_come_as_often_as_they_should() -> None:
    logits = SHARES.log().nan_to_num(neginf=0.0).expand(20_000, -1)  # padding would be the likeliest
    drawn = choose(logits, 1.0, None, 1.0, torch.Generator().manual_seed(0)).flatten()
    assert torch.bincount(drawn, minlength=5).double().div(20_000).tolist() == pytest.approx(
        SHARES[0].tolist(), abs=0.015
    )
    cold = choose(logits, 0.5, None, 1.0, torch.Generator().manual_seed(0)).flatten()
    squares = SHARES[0].square() / SHARES.square().sum()
    assert torch.bincount(cold, minlength=5).double().div(20_000).tolist() == pytest.approx(squares.tolist(), abs=0.015)
    assert set(choose(logits, 0, None, 1.0).flatten().tolist()) == {1}
