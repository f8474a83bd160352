"""Names that a config may use, each with the place of what it stands for. Nothing is imported before `resolve`."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any

from ..errors import UsageError
from .nearest import nearest

_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class Registry:
    """A table of name -> "module:function". Only names in the table are ever resolved.

    >>> codecs = Registry("codec", {"json": "json:loads"})
    >>> codecs.resolve("json")("[1]")
    [1]
    """

    def __init__(self, kind: str, targets: Mapping[str, str]) -> None:
        self.kind = kind
        self._targets: dict[str, str] = {}
        for name, target in targets.items():
            self.register(name, target)

    def register(self, name: str, target: str) -> None:
        """Add a name. ValueError when it is taken or the target is not "module:function"."""
        if name in self._targets:
            raise ValueError(f"{self.kind} '{name}' is registered already, as {self._targets[name]}")
        if not _TARGET.fullmatch(target):
            raise ValueError(f"{self.kind} '{name}': got target '{target}'; allowed: 'module:function'")
        self._targets[name] = target

    def names(self) -> tuple[str, ...]:
        """The registered names, sorted."""
        return tuple(sorted(self._targets))

    def __contains__(self, name: object) -> bool:
        return name in self._targets

    def resolve(self, name: str) -> Any:
        """Import and return what the name stands for. UsageError when it is not registered."""
        target = self._targets.get(name)
        if target is None:
            raise UsageError(self._miss(name))
        module, _, attribute = target.partition(":")
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
