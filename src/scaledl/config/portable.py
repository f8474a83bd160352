"""A config as it may leave the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .schema import Config, RunConfig


def portable(config: Config) -> dict[str, Any]:
    """The plain values without folders of this machine: `run.root` is the default, an absolute `data.root` is None,
    and of a tokenizer's file its name is left.

    >>> portable(Config.model_validate({"run": {"root": "/home/me/runs"}}))["run"]["root"]
    'runs'
    """
    plain = config.model_dump(mode="json")
    plain["run"]["root"] = RunConfig().root
    if config.data.root is not None and _is_of_this_machine(config.data.root):
        plain["data"]["root"] = None
    tokenizer = config.data.text.tokenizer
    plain["data"]["text"]["tokenizer"] = Path(tokenizer).name if _is_of_this_machine(tokenizer) else tokenizer
    return plain


def _is_of_this_machine(folder: str) -> bool:
    return Path(folder).is_absolute() or folder.startswith("~")
