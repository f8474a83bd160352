"""What a model is trained to do."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from ..registry import LOSSES, METRICS, TASKS
from ..traits import Traits, traits_of
from .base import (
    OWN_PATTERN,
    Fraction,
    NonNegativeFloat,
    OpenFraction,
    PositiveFloat,
    Section,
    list_names,
    registered,
)
from .conflict import Conflict


def _check_loss(name: str) -> str:
    if name not in LOSSES and not re.match(OWN_PATTERN, name):
        raise PydanticCustomError("not_registered", "not a registered {kind}", {"kind": LOSSES.kind})
    return name


def _names_or_own(schema: dict[str, Any]) -> None:
    schema.pop("type", None)
    schema["anyOf"] = [{"enum": list(LOSSES.names())}, {"type": "string", "pattern": OWN_PATTERN}]


LossName = Annotated[str, AfterValidator(_check_loss), Field(json_schema_extra=_names_or_own)]
MetricName = Annotated[str, registered(METRICS), Field(json_schema_extra=list_names(METRICS))]


class TaskConfig(Section):
    name: Annotated[str, registered(TASKS)] = Field(
        default="classification", description="Name of a registered task.", json_schema_extra=list_names(TASKS)
    )
    loss: LossName | None = Field(
        default=None,
        description="What is minimised: a registered loss that the task has, or a function of one's own, "
        "path.to.module:function, (outputs, targets) -> a scalar or a value for each element. Default: the task's.",
    )
    metrics: list[MetricName] = Field(
        default=[], max_length=32, description="Figures of each evaluation, besides the task's own."
    )
    label_smoothing: Fraction = Field(default=0.0, description="Mass moved from the true class to all classes.")
    class_weights: Literal["balanced"] | Annotated[list[PositiveFloat], Field(min_length=1)] | None = Field(
        default=None,
        description="Weight of each class in the training loss; balanced: by one over its share of the training split.",
    )
    focal_gamma: NonNegativeFloat = Field(
        default=2.0, description="With loss=focal: how far what is right already is left out; 0 is cross entropy."
    )
    huber_delta: PositiveFloat = Field(
        default=1.0, description="With loss=huber: where squares become lines; in standardised units."
    )
    threshold: OpenFraction = Field(
        default=0.5, description="Of several labels (multilabel): probability from which one counts as there."
    )

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of all figures of an evaluation besides the loss; the first is the headline."""
        return tuple(dict.fromkeys((*self.traits.figures, *self.metrics)))

    @property
    def headline(self) -> str:
        """The figure that tables show, and that a search makes best where nothing else is said."""
        return self.figures[0]

    @property
    def traits(self) -> Traits:
        return traits_of(self.name)


def task_conflicts(task: TaskConfig) -> list[Conflict]:
    """What the task has no use for."""
    traits, default = task.traits, TaskConfig()
    found = []
    if task.loss in LOSSES and task.loss not in traits.losses:
        found.append(_conflict("loss", task.loss, f"one of {', '.join(traits.losses)}", task))
    for name in task.metrics if traits.keys is not None else ():
        if name not in (*traits.addable, *traits.figures):
            found.append(_conflict("metrics", name, f"any of {', '.join(traits.addable)}", task))
    if task.class_weights is not None and task.loss is not None and task.loss not in LOSSES:
        found.append(Conflict("task.class_weights", "task.loss", str(task.class_weights), "null with one's own loss"))
    for key in TaskConfig.model_fields:
        value = getattr(task, key)
        if key not in ("name", "loss", "metrics", *_known(traits)) and value != getattr(default, key):
            found.append(_conflict(key, str(value), f"{getattr(default, key)}: it has no such thing", task))
    return found


def _known(traits: Traits) -> tuple[str, ...]:
    return tuple(TaskConfig.model_fields) if traits.keys is None else traits.keys


def _conflict(key: str, got: object, allowed: str, task: TaskConfig) -> Conflict:
    return Conflict(f"task.{key}", "task.name", str(got), f"with task.name={task.name} {allowed}")
