"""What a search tries, and how."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ..figures import figure_of
from .base import Auto, Direction, PositiveFloat, Section
from .conflict import Conflict
from .task import TaskConfig

COSTS = ("params", "macs", "size_bytes", "latency_ms")  # of a model, whatever its task is


class TuneConfig(Section):
    """What `scaledl tune` searches, and how. A training takes no notice of it."""

    space: dict[str, Any] = Field(
        default={},
        description="Dotted keys and what they may be: {loguniform: [1e-4, 1e-1]}, {uniform: [a, b]}, "
        "{quniform: [a, b, step]}, {int: [a, b]}, {logint: [a, b]}, {choice: [a, b, …]}; with "
        "`when: {other.key: value}` a key is searched only where another one has that value.",
    )
    verb: Literal["train", "compress"] = Field(default="train", description="What a trial does.")
    trials: int = Field(default=64, ge=1, le=1_000_000, description="Settings to try, the config's own included.")
    search: Literal["auto", "random", "grid", "qmc", "tpe", "gp", "cmaes", "nsga2"] = Field(
        default="auto", description="How settings are chosen. auto: tpe, or nsga2 for several objectives."
    )
    scheduler: Literal["auto", "none", "asha", "hyperband", "median", "pbt"] = Field(
        default="auto",
        description="Which trials are stopped early. auto: asha; none for several objectives and compressions.",
    )
    objectives: dict[str, Direction] = Field(
        default={},
        max_length=4,
        description="What is to be best, max or min: val_loss, val_METRIC of the task, params, macs, size_bytes, "
        "latency_ms; several make a Pareto front. Latency and size are the exported file's. Early stopping looks at "
        "the first. Default: the task's headline.",
    )
    reduction_factor: int = Field(
        default=3, ge=2, le=16, description="One of so many trials goes on beyond each rung (asha, hyperband)."
    )
    min_epochs: int = Field(default=1, ge=1, le=1_000_000, description="No trial is stopped before.")
    population: int = Field(default=8, ge=2, le=1000, description="Trials that live at a time (pbt).")
    perturb_epochs: int = Field(default=1, ge=1, le=1_000_000, description="Epochs between two exchanges (pbt).")
    default_first: bool = Field(default=True, description="Trial 0 is the config as it is, as far as the space has it.")
    patience: int | None = Field(
        default=None, ge=1, description="Stop when so many trials in a row ended without a better best."
    )
    target: Annotated[float, Field(allow_inf_nan=False)] | None = Field(
        default=None, description="Stop when the first objective is as good as this."
    )
    hours: PositiveFloat | None = Field(default=None, description="Start no trial after so many hours.")
    retries: int = Field(
        default=3, ge=0, le=100, description="Fresh starts of a trial whose process died, from its own checkpoint."
    )
    cpus: Annotated[float, Field(gt=0, le=4096, allow_inf_nan=False)] = Field(
        default=1.0, description="CPUs of a trial; fractions share one."
    )
    gpus: Annotated[float, Field(ge=0, le=1024, allow_inf_nan=False)] | Auto = Field(
        default="auto", description="GPUs of a trial; fractions share one. auto: one for each rank where there are any."
    )
    keep: Literal["best", "all", "none"] = Field(
        default="best", description="Whose trained weights stay when a trial has ended."
    )


def headline_objective(task: TaskConfig) -> dict[str, Direction]:
    """What a search makes best where nothing else is said."""
    found = figure_of(task.headline)
    return {f"val_{task.headline}": found.way if found else "min"}


def objective_conflicts(tune: TuneConfig, task: TaskConfig) -> list[Conflict]:
    """Objectives that nobody measures."""
    known = (*(f"val_{name}" for name in dict.fromkeys(("loss", *task.figures))), *COSTS)
    allowed = f"with task.name={task.name} {', '.join(known)}, and val_METRIC for each of task.metrics"
    others = (name for name in tune.objectives if name not in known)
    return [
        Conflict(f"tune.objectives.{name}", "task.name", tune.objectives[name], allowed)
        for name in others
        if task.traits.keys is not None or not name.startswith("val_")
    ]
