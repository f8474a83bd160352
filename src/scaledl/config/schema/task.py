"""What a model is trained to do."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..registry import LOSSES, METRICS, TASKS
from ..traits import LOSS_KEYS, Traits, figures_of, traits_of
from .base import (
    Fraction,
    NonNegativeFloat,
    OpenFraction,
    PositiveFloat,
    Section,
    list_names,
    registered,
)
from .conflict import Conflict, written

HEAD_PATTERN = r"^[a-z][a-z0-9_]{0,31}$"
LossName = Annotated[str, registered(LOSSES, or_own=True), Field(json_schema_extra=list_names(LOSSES, or_own=True))]
TaskName = Annotated[str, registered(TASKS, or_own=True), Field(json_schema_extra=list_names(TASKS, or_own=True))]
MetricName = Annotated[str, registered(METRICS), Field(json_schema_extra=list_names(METRICS))]


class HeadConfig(Section):
    """One of several things that are learned side by side."""

    kind: Literal["class", "labels", "numbers"] = Field(
        description="class: one of several, from one column of names or of whole numbers from 0 on; labels: 0 or 1 in "
        "each column; numbers."
    )
    columns: Annotated[list[str], Field(min_length=1, max_length=4096)] = Field(
        description="Names of the columns of targets that it learns."
    )
    classes: int | None = Field(
        default=None,
        ge=2,
        le=1_000_000,
        description="Of kind class: how many there are. Default: as many as the column of a prepared set has names of.",
    )
    weight: PositiveFloat = Field(default=1.0, description="Of its loss in the sum of all.")


class TaskConfig(Section):
    name: TaskName = Field(
        default="classification", description="A registered task, or python.path:Class of one's own."
    )
    loss: LossName | None = Field(
        default=None,
        description="What is minimised: a registered loss that the task has, or a function of one's own, "
        "path.to.module:function, (outputs, targets) -> a scalar or a value for each element. Default: the task's.",
    )
    metrics: list[MetricName] = Field(
        default=[], max_length=32, description="Figures of each evaluation, besides the task's own."
    )
    label_smoothing: Fraction = Field(default=0.0, description="Mass moved from the true class to all possible ones.")
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

    anomaly_label: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="Of reconstructions: the class whose samples are to stand out by their error. Nothing is learned "
        "from them, and AUROC says how well they do.",
    )
    kl_weight: NonNegativeFloat = Field(
        default=1.0,
        description="Of a model that draws its latent numbers (vae): weight of their divergence, in nats a value "
        "of an input.",
    )
    embedding: int = Field(
        default=128, ge=2, le=65536, description="Of contrastive learning: numbers that a sample is mapped to."
    )
    temperature: PositiveFloat = Field(default=0.5, description="With loss=nt_xent: what similarities are divided by.")
    margin: PositiveFloat = Field(
        default=0.2, description="With loss=triplet: by how much others have to be farther, of vectors of length 1."
    )
    mask_ratio: OpenFraction | None = Field(
        default=None,
        description="Share of an input that is hidden; default: 0.75 of images, 0.15 of texts, 0.5 of others.",
    )
    mask_patch: int = Field(
        default=4,
        ge=1,
        le=4096,
        description="Pixels to a side, or steps, that are hidden together; of tables one value.",
    )
    unlabeled_fraction: Fraction = Field(
        default=0.0,
        description="Share of the training samples whose labels are not looked at, beside those of label -1.",
    )
    unlabeled_weight: NonNegativeFloat = Field(
        default=1.0, description="Weight of what is learned from samples without a label."
    )
    confidence: Fraction = Field(
        default=0.95, description="Probability from which a model's own class stands for the label that is missing."
    )
    heads: dict[Annotated[str, Field(pattern=HEAD_PATTERN)], HeadConfig] = Field(
        default={}, max_length=64, description="Of multi_task: what is learned side by side, each under its own name."
    )

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of all figures of an evaluation besides the loss; the first is the headline."""
        return tuple(dict.fromkeys((*figures_of(self.model_dump()), *self.metrics)))

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
    if traits.keys is not None and task.loss is not None and not traits.losses:
        found.append(_conflict("loss", task.loss, "null: each head has the loss of its kind", task))
    elif traits.keys is not None and task.loss in LOSSES and task.loss not in traits.losses:
        found.append(_conflict("loss", task.loss, f"one of {', '.join(traits.losses)}", task))
    for name in task.metrics if traits.keys is not None else ():
        if name not in (*traits.addable, *traits.figures):
            allowed = f"any of {', '.join(traits.addable)}" if traits.addable else "[]: it has figures of its own alone"
            found.append(_conflict("metrics", name, allowed, task))
    if task.class_weights is not None and task.loss is not None and task.loss not in LOSSES:
        found.append(Conflict("task.class_weights", "task.loss", str(task.class_weights), "null with one's own loss"))
    found += _head_conflicts(task)
    for key in TaskConfig.model_fields:
        value = getattr(task, key)
        if key not in ("name", "loss", "metrics", *_known(traits)) and value != getattr(default, key):
            found.append(
                _conflict(key, _written(value), f"{_written(getattr(default, key))}: it has no such thing", task)
            )
    return found + (_loss_conflicts(task) if traits.keys is not None else [])


def _loss_conflicts(task: TaskConfig) -> list[Conflict]:
    """Keys that another loss than this one looks at."""
    loss = task.loss or next(iter(task.traits.losses), "")
    found = []
    for key, losses in LOSS_KEYS.items():
        value, default = getattr(task, key), getattr(TaskConfig(), key)
        if key in _known(task.traits) and value != default and loss not in losses:
            allowed = f"{_written(default)} with the loss {loss}: it is a key of {' and '.join(losses)}"
            found.append(Conflict(f"task.{key}", "task.loss", _written(value), allowed))
    return found


def _written(value: object) -> str:
    if isinstance(value, dict):
        return str({name: one.model_dump(exclude_unset=True) for name, one in value.items()})
    return written(value)


def _head_conflicts(task: TaskConfig) -> list[Conflict]:
    if task.name == "multi_task" and not task.heads:
        return [_conflict("heads", "{}", "at least one, such as {age: {kind: numbers, columns: [age]}}", task)]
    found, taken = [], [column for head in task.heads.values() for column in head.columns]
    for name, head in task.heads.items():
        key = f"task.heads.{name}"
        if (head.kind != "class" and head.classes is not None) or (head.kind == "class" and len(head.columns) != 1):
            what = f"kind={head.kind} columns={head.columns} classes={head.classes}"
            found.append(Conflict(key, key, what, "one column with kind=class, no classes with others"))
        found += [
            Conflict(key, key, column, "a column of one head only")
            for column in head.columns
            if taken.count(column) > 1
        ]
    return found


def _known(traits: Traits) -> tuple[str, ...]:
    return tuple(TaskConfig.model_fields) if traits.keys is None else traits.keys


def _conflict(key: str, got: object, allowed: str, task: TaskConfig) -> Conflict:
    return Conflict(f"task.{key}", "task.name", str(got), f"with task.name={task.name} {allowed}")
