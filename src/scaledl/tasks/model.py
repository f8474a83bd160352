"""The model that a config describes, made for the data's inputs and the task's outputs; and the task around a model."""

from __future__ import annotations

from torch import nn

from scaledl.config import Config
from scaledl.config.registry import TASKS
from scaledl.config.schema import TaskConfig
from scaledl.data import DataModule, DataSpec
from scaledl.errors import UsageError
from scaledl.models.structure import Model, new_model
from scaledl.tasks.base import Task
from scaledl.tasks.own import settings_of, task_class
from scaledl.tasks.own_steps import brings_steps, with_own_steps


def task_around(module: nn.Module, config: Config, spec: DataSpec, *, own_steps: bool = True) -> Task:
    """The config's task, with `module` as what it trains; by the steps that it brings, where it brings some."""
    kind = task_class(config.task.name)
    settings = settings_of(kind, config.task)
    if own_steps and brings_steps(module):
        kind = with_own_steps(kind, module)  # type: ignore[arg-type]
    task = kind(module, settings, spec)
    task.seed = config.run.seed
    return task


def check_task(config: Config, data: DataModule) -> None:
    """Raise UsageError for a task that such data, or their augmentation, are not enough for; nothing is trained."""
    _check_target(task_class(config.task.name), config, data.spec)
    task = task_around(nn.Identity(), config, data.spec)
    task.prepare(data)
    task.train_loader(data, config.data.batch_size, config.data.augment, sampling=config.data.sampling)


def model_for(config: Config, spec: DataSpec) -> Model:
    """A freshly initialised model, seeded by `run.seed`.

    Raises UsageError when the task cannot be trained on such data, or the family cannot take such inputs.
    """
    task = task_class(config.task.name)
    _check_target(task, config, spec)
    model = new_model(config.model, spec.inputs, task.outputs(spec, settings_of(task, config.task)), config.run.seed)
    task.check_model(model.module, spec, config.model.family)
    return model


def _check_target(task: type[Task], config: Config, spec: DataSpec) -> None:
    if spec.target in task.targets:
        _check_unlabeled(task, config, spec)
        return
    of_texts = () if spec.modality == "text" else ("language_modeling", "masked_language_modeling")
    known = (name for name in TASKS.names() if name not in of_texts)
    allowed = ", ".join(name for name in known if spec.target in TASKS.resolve(name).targets)
    raise UsageError(
        f"task.name: got {config.task.name}, and the targets of data.source {spec.source} are {spec.target!r}; "
        f"allowed for them: {allowed or 'none'}" + (f"; {config.task.name} learns {task.learns}" if task.learns else "")
    )


def _check_unlabeled(task: type[Task], config: Config, spec: DataSpec) -> None:
    if not spec.unlabeled or task.takes_unlabeled(config.task):
        return
    tasks = [(name, TASKS.resolve(name)) for name in TASKS.names()]
    allowed = [name for name, one in tasks if spec.target in one.targets and one.takes_unlabeled(TaskConfig(name=name))]
    anomalies = " with task.anomaly_label" if config.task.anomaly_label else ""
    raise UsageError(
        f"task.name: got {config.task.name}{anomalies}, and {spec.unlabeled:,} training samples of data.source "
        f"{spec.source} have no label; allowed for them: {', '.join(allowed)}; fix: one of these, or prepare the data "
        "with data.prepare.unlabeled=drop"
    )
