"""Keys of something that another key leaves off: refused, not ignored."""

from __future__ import annotations

import pytest

from scaledl.config import ConfigError, load_config
from scaledl.config.schema.idle import SWITCHES

pytestmark = pytest.mark.unit

ON = {
    "data.augment.policy": "randaugment",
    "data.augment.text.mask": "0.1",
    "transfer.lora.rank": "4",
    "model.pretrained": "some/run",
    "scheduler.name": "cosine",
}
OTHER = {
    "data.augment.policy_ops": ("3", "2 while data.augment.policy is none: it is a key of randaugment"),
    "data.augment.policy_magnitude": ("3", "9 while data.augment.policy is none: it is a key of randaugment"),
    "data.augment.text.mask_span": ("5", "3 while data.augment.text.mask is 0.0: it is a key of a share above 0"),
    "transfer.lora.alpha": ("8", "16.0 while transfer.lora.rank is 0: it is a key of a rank above 0"),
    "transfer.lora.dropout": ("0.1", "0.0 while transfer.lora.rank is 0: it is a key of a rank above 0"),
    "transfer.lora.targets": ("[layers.*]", "['*'] while transfer.lora.rank is 0: it is a key of a rank above 0"),
    "transfer.head": ("keep", "auto while model.pretrained is null: it is a key of a pretrained model"),
    "scheduler.min_lr_ratio": ("0.1", "0.0 while scheduler.name is constant: it is a key of all other schedules"),
}
OFF = {"scheduler.name": "constant"}


@pytest.mark.parametrize(("switch", "key"), [(switch.key, key) for switch in SWITCHES for key in switch.keys])
def test_a_key_of_what_is_off_is_refused(switch: str, key: str) -> None:
    value, allowed = OTHER[key]
    off = [f"{name}={word}" for name, word in OFF.items() if name == switch]
    with pytest.raises(ConfigError) as caught:
        load_config(None, [*off, f"{key}={value}"])
    [problem] = caught.value.problems
    assert (problem.key, problem.allowed) == (key, allowed)
    assert problem.fix.startswith(f"change it or {switch} (")
    load_config(None, [f"{switch}={ON[switch]}", f"{key}={value}"])


@pytest.mark.parametrize(
    ("words", "condition"),
    [
        (
            ("data.augment.policy={choice: [none, randaugment]}", "data.augment.policy_ops={int: [1, 4]}"),
            "data.augment.policy_ops: {int: [1, 4], when: {data.augment.policy: randaugment}}",
        ),
        (
            ("optimizer.name={choice: [adamw, sgd]}", "optimizer.momentum={uniform: [0.5, 0.9]}"),
            "optimizer.momentum: {uniform: [0.5, 0.9], when: {optimizer.name: sgd}}",
        ),
    ],
)
def test_a_search_is_told_where_such_a_key_can_be_searched(words: tuple[str, ...], condition: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [f"tune.space.{word}" for word in words])
    [problem] = caught.value.problems
    assert problem.fix == f"search it there only: {condition}"
