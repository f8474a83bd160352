"""How many trials fit at a time, and what is said where not one does."""

from __future__ import annotations

import pytest

from scaledl.errors import UsageError
from scaledl.tune.slots import Slots, count_slots

pytestmark = pytest.mark.unit

Nodes = list[tuple[str, float, float]]


@pytest.mark.parametrize(
    ("cpus", "gpus", "nodes", "count"),
    [
        (1, 0, [("a", 4, 0)], 4),
        (1, 0, [("a", 4, 2)], 4),  # GPUs that nobody asks for
        (2, 0, [("a", 4, 0), ("b", 3, 0)], 3),
        (0.5, 0, [("a", 2, 0)], 4),
        (0.1, 0, [("a", 1, 0)], 10),  # 1 / 0.1 is a little less than 10 in some roundings
        (0.3, 0, [("a", 0.9, 0)], 3),
        (1.5, 0, [("a", 4, 0)], 2),
        (1, 1, [("a", 8, 4)], 4),
        (4, 1, [("a", 8, 4)], 2),
        (1, 2, [("a", 8, 5)], 2),
        (1, 0.5, [("a", 8, 2)], 4),
        (1, 0.6, [("a", 8, 2)], 2),  # a fraction is of one GPU
        (1, 0.3, [("a", 8, 1), ("b", 8, 2)], 9),
        (1, 0.25, [("a", 3, 1), ("b", 8, 0)], 3),
        (3, 0, [("a", 2, 0), ("b", 3, 0)], 1),
    ],
)
def test_count(cpus: float, gpus: float, nodes: Nodes, count: int) -> None:
    assert count_slots(Slots(0, cpus, gpus), nodes) == Slots(count, cpus, gpus)


@pytest.mark.parametrize(
    ("cpus", "gpus", "nodes", "got", "largest"),
    [
        (8, 0, [("a", 4, 0), ("b", 6, 0)], "tune.cpus: got 8", "at most 6, which the largest node (b) has"),
        (1, 1, [("a", 4, 0)], "tune.gpus: got 1", "at most 0, which the largest node (a) has"),
        (1, 4, [("a", 9, 1), ("b", 4, 2)], "tune.gpus: got 4", "at most 2, which the largest node (b) has"),
        (8, 1, [("a", 9, 0), ("b", 4, 2)], "tune.cpus: got 8", "at most 4, which the largest node (b) has"),
    ],
)
def test_not_even_one_fits(cpus: float, gpus: float, nodes: Nodes, got: str, largest: str) -> None:
    with pytest.raises(UsageError) as caught:
        count_slots(Slots(0, cpus, gpus), nodes)
    assert str(caught.value).startswith(f"{got} for each trial; allowed: {largest}")


def test_more_than_one_gpu_is_whole_gpus() -> None:
    with pytest.raises(UsageError, match=r"tune.gpus: got 1.5; allowed: a fraction of one GPU, or whole GPUs"):
        count_slots(Slots(0, 1, 1.5), [("a", 4, 4)])
