"""Which keys of two configs differ."""

from __future__ import annotations

import pytest

from scaledl.config import Config, changed_keys, describe_changes, replace

pytestmark = pytest.mark.unit


def test_equal_configs_differ_nowhere() -> None:
    assert changed_keys(Config(), Config()) == {}


def test_each_key_with_both_values() -> None:
    other = replace(Config(), {"trainer.epochs": 3, "optimizer.lr": 0.5})
    assert changed_keys(Config(), other) == {"optimizer.lr": (0.001, 0.5), "trainer.epochs": (10, 3)}


def test_ignored_keys_are_passed_over_by_their_beginning() -> None:
    other = replace(Config(), {"trainer.epochs": 3, "run.seed": 1, "run.id": "a"})
    assert list(changed_keys(Config(), other, ignore=("run.id", "trainer."))) == ["run.seed"]


def test_stages_are_compared_one_by_one() -> None:
    old = replace(Config(), {"compress.stages": [{"method": "prune"}, {"method": "ptq"}]})
    new = replace(Config(), {"compress.stages": [{"method": "prune", "ratio": 0.25}, {"method": "ptq"}]})
    assert changed_keys(old, new) == {"compress.stages.0.ratio": (0.5, 0.25)}


def test_a_stage_that_is_missing() -> None:
    new = replace(Config(), {"compress.stages": [{"method": "ptq", "samples": 8}]})
    changed = changed_keys(Config(), new)
    assert changed["compress.stages.0.samples"] == (None, 8)


def test_another_family() -> None:
    changed = changed_keys({"model": {"family": "mlp", "hidden": [8]}}, {"model": {"family": "resnet", "depth": 8}})
    assert set(changed) == {"model.family", "model.hidden", "model.depth"}


def test_the_line_for_a_message() -> None:
    assert describe_changes({"a": (1, None), "b": ("x", "y")}) == "a (was 1, is None), b (was 'x', is 'y')"


def test_one_batch_is_not_all_batches() -> None:
    one = replace(Config(), {"trainer.limit_train_batches": 1})
    assert changed_keys(Config(), one) == {"trainer.limit_train_batches": (1.0, 1)}
    assert changed_keys(one, one) == {}
