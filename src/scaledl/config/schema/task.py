"""What a model is trained to do."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..registry import TASKS
from .base import Fraction, Section, list_names, registered


class TaskConfig(Section):
    name: Annotated[str, registered(TASKS)] = Field(
        default="classification", description="Name of a registered task.", json_schema_extra=list_names(TASKS)
    )
    label_smoothing: Fraction = Field(default=0.0, description="Mass moved from the true class to all classes.")
