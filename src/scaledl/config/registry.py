"""Names that a config may use, each with the place of what it stands for. Nothing is imported before `resolve`."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from .nearest import nearest

_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Entry:
    """What a name stands for: "module:function", what it is in one line, and the paper or work that it comes from."""

    target: str
    summary: str = ""
    source: str = ""


class Registry:
    """A table of name -> "module:function", or an `Entry` that also describes it. Only names in it are ever resolved.

    >>> codecs = Registry("codec", {"json": "json:loads", "float": Entry("builtins:float", "A number.")})
    >>> codecs.resolve("json")("[1]")
    [1]
    >>> codecs.entry("float").summary
    'A number.'
    """

    def __init__(self, kind: str, targets: Mapping[str, str | Entry]) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}
        for name, target in targets.items():
            self.register(name, target)

    def register(self, name: str, target: str | Entry) -> None:
        """Add a name. ValueError when it is taken or the target is not "module:function"."""
        entry = target if isinstance(target, Entry) else Entry(target)
        if name in self._entries:
            raise ValueError(f"{self.kind} '{name}' is registered already, as {self._entries[name].target}")
        if not _TARGET.fullmatch(entry.target):
            raise ValueError(f"{self.kind} '{name}': got target '{entry.target}'; allowed: 'module:function'")
        self._entries[name] = entry

    def names(self) -> tuple[str, ...]:
        """The registered names, sorted."""
        return tuple(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def entry(self, name: str) -> Entry:
        """Target and description of a name. UsageError when it is not registered."""
        found = self._entries.get(name)
        if found is None:
            raise UsageError(self._miss(name))
        return found

    def resolve(self, name: str) -> Any:
        """Import and return what the name stands for. UsageError when it is not registered."""
        module, _, attribute = self.entry(name).target.partition(":")
        return getattr(importlib.import_module(module), attribute)

    def _miss(self, name: str) -> str:
        close = nearest(name, self.names())
        hint = f"; did you mean '{close}'?" if close else ""
        return f"unknown {self.kind} {name!r}; allowed: {', '.join(self.names())}{hint}"


SOURCES = Registry(
    "data source",
    {
        "digits": "scaledl.data.digits:load_digits",
        "fashion_mnist": "scaledl.data.fashion_mnist:load_fashion_mnist",
        "mnist": "scaledl.data.mnist:load_mnist",
        "cifar10": "scaledl.data.cifar:load_cifar10",
        "cifar100": "scaledl.data.cifar:load_cifar100",
        "imagenet": "scaledl.data.imagenet:load_imagenet",
        "iris": "scaledl.data.tables:load_iris",
        "wine": "scaledl.data.tables:load_wine",
        "breast_cancer": "scaledl.data.tables:load_breast_cancer",
        "ucr": "scaledl.data.ucr:load_ucr",
        "prepared": "scaledl.data.prepared:load_prepared",
    },
)
FAMILIES = Registry(
    "model family",
    {"mlp": "scaledl.models.mlp:build_mlp", "resnet": "scaledl.models.resnet:build_resnet"},
)
TASKS = Registry("task", {"classification": "scaledl.tasks.classification:ClassificationTask"})
METHODS = Registry(
    "compression method",
    {
        "distill": "scaledl.compress.distill:apply",
        "prune": "scaledl.compress.prune:apply",
        "qat": "scaledl.compress.quantize:apply_qat",
        "ptq": "scaledl.compress.quantize:apply_ptq",
    },
)
CALLBACKS = Registry("callback", {"freeze_after": "scaledl.compress.quantize:FreezeAfter"})
FORMATS = Registry("export format", {"torchscript": "scaledl.export.torchscript:export_torchscript"})
CHANGES = Registry(
    "structure change",
    {
        "resize": "scaledl.models.structure:replay_resize",
        "quantize": "scaledl.models.quantized:replay_quantize",
    },
)
