"""Keys that do nothing until another key turns on what they are about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

from .base import Section
from .conflict import Conflict, written


@dataclass(frozen=True)
class Switch:
    """`key` turns `keys` on where its value is one of those that `words` tells of."""

    key: str
    is_on: Callable[[Any], bool]
    words: str
    keys: tuple[str, ...]


AUGMENT = "data.augment"
SWITCHES = (
    Switch(
        f"{AUGMENT}.policy",
        lambda policy: policy == "randaugment",
        "randaugment",
        (f"{AUGMENT}.policy_ops", f"{AUGMENT}.policy_magnitude"),
    ),
    Switch(f"{AUGMENT}.text.mask", bool, "a share above 0", (f"{AUGMENT}.text.mask_span",)),
    Switch(
        "transfer.lora.rank",
        bool,
        "a rank above 0",
        ("transfer.lora.alpha", "transfer.lora.dropout", "transfer.lora.targets"),
    ),
    Switch("model.pretrained", bool, "a pretrained model", ("transfer.head",)),
    Switch("scheduler.name", lambda name: name != "constant", "all other schedules", ("scheduler.min_lr_ratio",)),
)


def idle_conflicts(config: Section) -> list[Conflict]:
    """The keys that are set although what they are about is off."""
    return [
        Conflict(key, switch.key, written(value), f"{written(default)} {_while(switch, config)}")
        for switch in SWITCHES
        if not switch.is_on(_value(config, switch.key))
        for key in switch.keys
        if (value := _value(config, key)) != (default := _default(config, key))
    ]


def _while(switch: Switch, config: Section) -> str:
    return f"while {switch.key} is {written(_value(config, switch.key))}: it is a key of {switch.words}"


def _value(config: Section, key: str) -> Any:
    return reduce(getattr, key.split("."), config)


def _default(config: Section, key: str) -> Any:
    above, _, last = key.rpartition(".")
    return type(_value(config, above)).model_fields[last].default
