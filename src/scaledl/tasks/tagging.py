"""Tagging: a class for each step of a text or series."""

from __future__ import annotations

from typing import ClassVar

from scaledl.config.schema import TaskConfig
from scaledl.data import DataSpec
from scaledl.runtime.outputs import OutputKind
from scaledl.runtime.signature import Outputs
from scaledl.tasks.classification import ClassificationTask


class TaggingTask(ClassificationTask):
    """Logits [B, K, T] against int64 [B, T]; a step that is IGNORED counts for nothing."""

    targets = frozenset({"tags"})
    kind: ClassVar[OutputKind] = "tags"

    @classmethod
    def outputs(cls, spec: DataSpec, config: TaskConfig) -> Outputs:
        return Outputs(len(spec.labels), "steps")
