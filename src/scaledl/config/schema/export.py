"""The file that a model becomes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Section


class ExportConfig(Section):
    format: Literal["torchscript"] = Field(default="torchscript", description="Format of the artifact.")
    engine: Literal["x86", "onednn"] = Field(default="x86", description="int8 kernels; set when the file is loaded.")
    latency_batch_sizes: list[Annotated[int, Field(ge=1, le=65536)]] = Field(
        default=[1, 64], min_length=1, max_length=8, description="Batch sizes whose latency is measured."
    )
    latency_threads: int = Field(default=1, ge=1, le=4096, description="CPU threads while latency is measured.")
