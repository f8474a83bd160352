"""Code that a config names: `python.path:name`. It is the user's own, and runs with the user's rights."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .schema import LIBRARIES, OWN_PATTERN, Config


def import_named(path: str, what: str) -> Any:
    """What `python.path:name` stands for; modules of the working directory are found too.

    Raises UsageError, which begins with `what`, when it cannot be imported.
    """
    module, _, name = path.partition(":")
    with working_directory():
        try:
            return getattr(importlib.import_module(module), name)
        except (Exception, SystemExit) as error:  # whatever the module does when it is imported
            why = str(error) if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
            raise UsageError(f"{what}: cannot be imported ({why}); looked in {Path.cwd()} too") from error


@contextmanager
def working_directory() -> Iterator[None]:
    """Modules of the working directory can be imported, as with `python -m`."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def imports_of(config: Config) -> dict[str, str]:
    """The keys of a config that name code of the user's own, and what they name.

    >>> from scaledl.config.schema import Config
    >>> imports_of(Config.model_validate({"model": {"family": "external", "name": "my.nets:Net"}}))
    {'model.name': 'my.nets:Net'}
    """
    named = {"model.name": getattr(config.model, "name", ""), "task.loss": config.task.loss or ""}
    named |= {"task.name": config.task.name, "data.source": config.data.source}
    for number, entry in enumerate(config.trainer.callbacks):
        named[f"trainer.callbacks.{number}"] = entry if isinstance(entry, str) else entry.path
    return {key: path for key, path in named.items() if is_import(path)}


def is_import(name: str) -> bool:
    """Whether a name is `python.path:name` and not `library:NAME`."""
    return re.fullmatch(OWN_PATTERN, name) is not None and name.partition(":")[0] not in LIBRARIES


def check_trusted(config: Config, trust: bool, what: str) -> None:
    """Refuse code that the config of something saved names, unless it is trusted. Raises UsageError."""
    for path in imports_of(config).values() if not trust else ():
        raise untrusted(path, what)


def untrusted(path: str, what: str) -> UsageError:
    """The refusal of code that something saved names."""
    return UsageError(
        f"{what} names code to import, {path!r}, which is refused unless you trust where it comes from; "
        "if you do, add --trust"
    )
