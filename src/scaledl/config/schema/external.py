"""The section of models that other libraries, or one's own code, make."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from .base import EXTERNAL_PATTERN
from .family import ModelSection


class ExternalConfig(ModelSection):
    """A model of another library, or of one's own code, made for the data's inputs and the task's outputs."""

    family: Literal["external"] = Field(description="Kind of model.")
    name: Annotated[str, Field(pattern=EXTERNAL_PATTERN)] = Field(
        description="timm:NAME, torchvision:NAME, hf:NAME (of the hub, a kind of model, or a folder), or "
        "python.path:Class of one's own."
    )
    args: dict[str, Any] = Field(
        default={},
        description="Arguments of what makes the model; of hf the settings of its config. Inputs and outputs are given "
        "by themselves.",
    )
    architecture: dict[str, Any] | None = Field(
        default=None,
        description="Of hf: the whole config that the name stands for; filled in when a model is made.",
    )
