"""What differs between two configs, key by key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .schema import Config

Settings = Config | Mapping[str, Any]

# What may differ when a run goes on: it changes neither the weights nor the order of samples.
FREE_KEYS = (
    *("run.name", "run.id", "run.root", "data.root", "data.download", "data.num_workers"),
    *("trainer.log_every_n_steps", "trainer.keep_last", "trainer.checkpoint_every_n_steps"),
    *("trainer.strategy", "trainer.devices", "trainer.num_nodes", "trainer.deepspeed."),
    *("trainer.timeout_seconds", "trainer.hang_seconds", "trainer.max_nonfinite_steps", "tune."),
)


BATCHES = "_batches"  # ends keys whose whole numbers are counts, and others shares


def changed_keys(old: Settings, new: Settings, *, ignore: Sequence[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ -> (old, new); None stands for a key that is not there.

    Keys that start with one of `ignore` are passed over.

    >>> changed_keys({"data": {"batch_size": 1}}, {"data": {"batch_size": 2}})
    {'data.batch_size': (1, 2)}
    """
    before, after = _flat(_plain(old)), _flat(_plain(new))
    keys = (key for key in sorted(before.keys() | after.keys()) if not key.startswith(tuple(ignore)))
    return {key: (before.get(key), after.get(key)) for key in keys if _differ(key, before.get(key), after.get(key))}


def _differ(key: str, was: Any, now: Any) -> bool:
    """One batch is 1, all of them are 1.0."""
    return bool(was != now) or (key.endswith(BATCHES) and type(was) is not type(now))


def describe_changes(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """One line for a message.

    >>> describe_changes({"trainer.epochs": (1, 2)})
    'trainer.epochs (was 1, is 2)'
    """
    return ", ".join(f"{key} (was {was!r}, is {now!r})" for key, (was, now) in changes.items())


def _plain(settings: Settings) -> Mapping[str, Any]:
    return settings.model_dump(mode="json") if isinstance(settings, Config) else settings


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Lists count as sections too, under their indices: a message names one stage, not the whole recipe."""
    flat: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, list) and any(isinstance(entry, dict) for entry in item):
            item = {str(index): entry for index, entry in enumerate(item)}
        key = f"{prefix}{name}"
        flat |= _flat(item, f"{key}.") if isinstance(item, Mapping) and item else {key: item}
    return flat
