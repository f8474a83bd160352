"""Segmentation: a class for each pixel (Long, Shelhamer and Darrell 2015)."""

from __future__ import annotations

from typing import ClassVar

from scaledl.config.schema import TaskConfig
from scaledl.data import DataSpec
from scaledl.runtime.outputs import OutputKind
from scaledl.runtime.signature import Outputs
from scaledl.tasks.classification import ClassificationTask


class SegmentationTask(ClassificationTask):
    """Logits [B, K, H, W] against int64 [B, H, W]; a pixel that is IGNORED counts for nothing."""

    targets = frozenset({"mask"})
    kind: ClassVar[OutputKind] = "mask"

    @classmethod
    def outputs(cls, spec: DataSpec, config: TaskConfig) -> Outputs:
        return Outputs(len(spec.labels), "pixels")
