"""What the optimizer and scheduler sections take: keys of a name, their defaults, and what cannot stand together."""

from __future__ import annotations

import pytest

from scaledl.config import Config, ConfigError, load_config, replace
from scaledl.config.registry import OPTIMIZERS, REGULARISERS, SCHEDULES
from scaledl.config.schema import OptimizerConfig, SchedulerConfig

pytestmark = pytest.mark.unit


def problems_of(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)
    return [str(problem) for problem in caught.value.problems]


def test_every_name_has_its_keys_and_its_source() -> None:
    assert set(OptimizerConfig.takes) == set(OPTIMIZERS.names())
    assert set(SchedulerConfig.takes) == set(SCHEDULES.names())
    keys = set(OptimizerConfig.model_fields) | set(SchedulerConfig.model_fields)
    assert {key for keys_of in OptimizerConfig.takes.values() for key in keys_of} <= keys
    for registry in (OPTIMIZERS, SCHEDULES, REGULARISERS):
        assert all(registry.entry(name).summary and registry.entry(name).source for name in registry.names())


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        ({}, {"weight_decay": 0.05, "betas": (0.9, 0.999), "eps": 1e-8}),
        ({"name": "adam"}, {"weight_decay": 0.0, "betas": (0.9, 0.999), "eps": 1e-8}),
        ({"name": "sgd", "momentum": 0.0}, {"weight_decay": 0.05, "momentum": 0.0, "nesterov": True}),
        ({"name": "momentum"}, {"weight_decay": 0.05, "momentum": 0.9}),
        ({"name": "lion", "weight_decay": 0.0}, {"weight_decay": 0.0, "betas": (0.9, 0.99)}),
        ({"name": "ftrl", "l1": 1.0}, {"initial_accumulator": 0.1}),
    ],
)
def test_a_key_that_is_null_is_the_methods_own(given: dict[str, object], settings: dict[str, object]) -> None:
    assert OptimizerConfig.model_validate(given).settings() == settings


def test_a_key_of_another_method_is_refused() -> None:
    [problem] = problems_of("optimizer.momentum=0.5")
    assert problem == (
        "optimizer.momentum (command line): got 0.5; allowed: null with adamw: it is a key of sgd, momentum, nesterov, "
        "rmsprop, muon; change it or optimizer.name (default)"
    )
    assert (
        "got false; allowed: null with nesterov: it is a key of sgd"
        in problems_of("optimizer={name: nesterov, nesterov: false}")[0]
    )
    assert "got [0.8, 0.9]; allowed: null with sgd" in problems_of("optimizer={name: sgd, betas: [0.8, 0.9]}")[0]
    assert "scheduler.gamma" in problems_of("scheduler.gamma=0.5")[0]
    assert "scheduler.milestones" in problems_of("scheduler.name=multistep")[0]


def test_a_search_of_such_a_key_is_told_of_its_condition() -> None:
    space = "tune.space={optimizer.name: [adamw, sgd], optimizer.momentum: {uniform: [0.1, 0.9]}}"
    [problem] = problems_of(space)
    assert problem.startswith("tune.space.optimizer.momentum (command line): got 0.1; allowed: null with adamw")
    assert problem.endswith(
        "search it there only: optimizer.momentum: {uniform: [0.1, 0.9], when: {optimizer.name: sgd}}"
    )


def test_another_name_leaves_behind_what_only_the_old_one_had() -> None:
    sgd = replace(Config(), {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.5, "weight_decay": 0.01}})
    adam = replace(sgd, {"optimizer.name": "adam"}).optimizer
    assert (adam.lr, adam.momentum, adam.weight_decay) == (0.1, None, 0.01)
    step = replace(Config(), {"scheduler": {"name": "step", "gamma": 0.5, "step_epochs": 2}})
    exponential = replace(step, {"scheduler.name": "exponential"}).scheduler
    assert (exponential.gamma, exponential.step_epochs) == (0.5, None)


def test_what_every_config_of_an_earlier_version_holds_is_no_mistake() -> None:
    old = {"name": "adamw", "lr": 0.001, "weight_decay": 0.05, "momentum": 0.9, "betas": [0.9, 0.999]}
    assert not Config.model_validate({"optimizer": old}).optimizer.misplaced()
    assert not Config.model_validate({"optimizer": {**old, "name": "sgd"}}).optimizer.misplaced()
    assert replace(Config(), {"optimizer.name": "ftrl", "optimizer.weight_decay": 0.0}).optimizer.name == "ftrl"


def test_somebodys_own_optimizer_may_use_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OPTIMIZERS, "_entries", dict(OPTIMIZERS._entries))
    OPTIMIZERS.register("mine", "my.module:build")
    config = load_config(None, ["optimizer={name: mine, rho: 0.5, betas: [0.8, 0.9]}"])
    assert config.optimizer.settings() == {"betas": (0.8, 0.9), "rho": 0.5}


@pytest.mark.parametrize(
    ("overrides", "key", "words"),
    [
        (["trainer.strategy=deepspeed", "optimizer.name=lamb"], "optimizer.name", "one of sgd, momentum"),
        (["trainer.strategy=deepspeed", "optimizer.name=muon"], "optimizer.name", "of which each rank has parts"),
        (["trainer.strategy=deepspeed", "optimizer.name=adagrad"], "optimizer.name", "ftrl without penalties"),
        (["trainer.strategy=deepspeed", "optimizer.sam_rho=0.1"], "optimizer.sam_rho", "with DeepSpeed"),
        (["trainer.strategy=deepspeed", "trainer.gradient_clip_value=1"], "trainer.gradient_clip_value", "DeepSpeed"),
        (["trainer={strategy: deepspeed, deepspeed: {stage: 3}}", "optimizer.l1=1"], "optimizer.l1", "with stage 3"),
        (
            ["trainer={strategy: deepspeed, deepspeed: {stage: 3}, swa_start: 0.5}"],
            "trainer.swa_start",
            "null or 0 with stage 3",
        ),
        (["optimizer.sam_rho=0.1", "trainer.accumulate=2"], "trainer.accumulate", "1 with optimizer.sam_rho"),
        (["trainer.swa_start=0.5", "trainer.ema_decay=0.9"], "trainer.swa_start", "null with trainer.ema_decay"),
        (
            ["optimizer.name=ftrl", "compress.stages=[{method: prune, weight_decay: 0.1}]"],
            "compress.stages.0.weight_decay",
            "null or 0 with ftrl",
        ),
        (
            ["trainer.gradient_clip=1", "trainer.gradient_clip_value=0.5"],
            "trainer.gradient_clip_value",
            "got 0.5; allowed: null with trainer.gradient_clip: gradients are clipped by their norm or by value; "
            "change it or trainer.gradient_clip (command line)",
        ),
        (["trainer.swa_lr_ratio=0.5"], "trainer.swa_lr_ratio", "null without trainer.swa_start"),
    ],
)
def test_what_cannot_stand_together_is_told(overrides: list[str], key: str, words: str) -> None:
    [problem] = problems_of(*overrides)
    assert problem.startswith(f"{key} (")
    assert words in problem


def test_zero_takes_what_looks_at_single_elements() -> None:
    for name in ("adamw", "sgd", "ftrl", "lion"):
        load_config(None, ["trainer.strategy=deepspeed", f"optimizer.name={name}"])
    three = "trainer={strategy: deepspeed, deepspeed: {stage: 3}}"
    assert load_config(None, [three, "optimizer={name: ftrl, l1: 0.1}"]).optimizer.l1 == 0.1
