"""Several ranks that freeze, thaw, adapt, or train a LightningModule of one's own, against one process that does."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.numerics

SGD = {"optimizer.name": "sgd", "optimizer.lr": 0.1}  # shows a gradient of the wrong scale, which Adam hides
THAW = {"transfer.freeze": ["hidden.*"], "transfer.unfreeze": {"1": ["*.bias"], "2": ["*"]}}
FROZEN = {"transfer.freeze": ["hidden.*"], "transfer.lr_decay": 0.5}
DEEPSPEED = {"trainer.strategy": "deepspeed"}
LIT = {
    "model": {"family": "external", "name": "tests.own_modules:Lit"},
    "trainer.callbacks": ["tests.own_modules:Counter"],
}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "thaw": (THAW, {}),
    "thaw, sockets": (THAW, {"sockets": True}),
    "thaw, accumulation, sockets": ({**THAW, "trainer.accumulate": 5}, {"sockets": True}),
    "adapters": ({"transfer.lora.rank": 2}, {}),
    "adapters, sockets": ({"transfer.lora.rank": 2}, {"sockets": True}),
    "own module": (LIT, {}),
    "own module, accumulation, sockets": ({**LIT, "trainer.accumulate": 5}, {"sockets": True}),
    "limited": ({"trainer.limit_train_batches": 3, "trainer.limit_val_batches": 0.5}, {}),
    "frozen, zero 2": ({**FROZEN, **DEEPSPEED, "trainer.deepspeed.stage": 2}, {}),
    "frozen, zero 3": ({**FROZEN, **DEEPSPEED, "trainer.deepspeed.stage": 3}, {}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_two_ranks_learn_the_same_as_one(
    name: str, together: Callable[..., Any], cannot: Callable[[str], None], tmp_path: Path
) -> None:
    config, plan = VARIANTS[name]
    for module, needed in (("peft", "adapters" in name), ("deepspeed", "zero" in name)):
        if needed and find_spec(module) is None:
            cannot(f"{module} is not installed")
    alone = {key: value for key, value in config.items() if not key.startswith(("trainer.strategy", "trainer.deep"))}
    one = together(tmp_path / "one", 1, config={**SGD, **alone})
    job = together(tmp_path / "two", 2, config={**SGD, **config}, **plan)
    assert (one.code, job.code) == (0, 0), (one.error, job.error)
    assert job.losses == pytest.approx(one.losses, abs=1e-5)
    mine, theirs = (torch.load(found.folder / "weights.pt", weights_only=True) for found in (job, one))
    assert mine.keys() == theirs.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(mine[key], value, atol=1e-5, rtol=0, msg=key)
