"""What is said of a prepared set to be tried next can be tried."""

from __future__ import annotations

import pytest

from scaledl.config import load_config
from scaledl.config.registry import TASKS
from scaledl.data.prepare.next_step import training_keys
from scaledl.tasks.base import Task

pytestmark = pytest.mark.unit

TARGETS = {
    "image": ("class", "classes", "numbers", "mask"),
    "table": ("class", "classes", "numbers"),
    "text": ("class", "classes", "numbers", "tags"),
    "series": ("class", "classes", "numbers", "tags"),
}


@pytest.mark.parametrize(
    ("modality", "target"),
    [(modality, target) for modality, targets in TARGETS.items() for target in targets],
)
def test_family_and_task_are_there_and_take_such_targets(modality: str, target: str) -> None:
    config = load_config(None, training_keys({"modality": modality, "target": target}))
    task: type[Task] = TASKS.resolve(config.task.name)
    assert target in task.targets
