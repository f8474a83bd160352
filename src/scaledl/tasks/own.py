"""Tasks of one's own: a subclass of `Task` that the config names as `python.path:Class`."""

from __future__ import annotations

from scaledl.config.imported import import_named
from scaledl.config.registry import TASKS
from scaledl.config.schema import TaskConfig
from scaledl.errors import UsageError
from scaledl.tasks.base import Task


def task_class(name: str) -> type[Task]:
    """What `task.name` stands for. Raises UsageError for what cannot be imported or is no task."""
    if name in TASKS:
        registered: type[Task] = TASKS.resolve(name)
        return registered
    found = import_named(name, f"task.name: {name}")
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise UsageError(
            f"task.name: {name} is no subclass of scaledl.tasks.base.Task; a LightningModule of another kind is the "
            f"model: model.family=external model.name={name}, with the task that it is to be judged by"
        )
    return found


def settings_of(task: type[Task], config: TaskConfig) -> TaskConfig:
    """The section as `task` knows it: one's own has the losses and figures of the registered task that it extends."""
    if config.name in TASKS:
        return config
    registered = {TASKS.resolve(name): name for name in TASKS.names()}
    extended = next((registered[base] for base in task.__mro__ if base in registered), None)
    return config if extended is None else config.model_copy(update={"name": extended})
