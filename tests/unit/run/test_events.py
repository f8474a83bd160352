"""What TensorBoard reads of a run, and who hears of a disk that is full."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scaledl.run.events import EventFile, write_event

pytestmark = pytest.mark.unit


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_scalars_are_readable_at_once(tmp_path: Path) -> None:
    events = EventFile(tmp_path / "tensorboard", purge_step=1)
    events.add_scalars(1, {"train/loss": 0.5, "train/lr": 0.25})
    events.add_scalars(2, {"train/loss": 0.125})
    expected = {"train/loss": [(1, 0.5), (2, 0.125)], "train/lr": [(1, 0.25)]}
    assert read(tmp_path / "tensorboard") == expected


def test_an_attempt_takes_the_place_of_what_an_earlier_one_said_of_the_same_steps(tmp_path: Path) -> None:
    first = EventFile(tmp_path, purge_step=1)
    for step in range(1, 5):
        first.add_scalars(step, {"loss": float(step)})
    second = EventFile(tmp_path, purge_step=3)
    second.add_scalars(3, {"loss": 30.0})
    assert read(tmp_path) == {"loss": [(1, 1.0), (2, 2.0), (3, 30.0)]}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_is_the_error_of_the_one_who_writes() -> None:
    with Path("/dev/full").open("ab", buffering=0) as disk, pytest.raises(OSError, match="No space left"):
        write_event(disk, step=1)
