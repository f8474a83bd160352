"""Figures over several ranks are those of all samples together."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from scaledl.distributed.ranks import Ranks
from scaledl.tasks.meter import Meter, gauge
from scaledl.tasks.metrics import Judged

pytestmark = pytest.mark.unit

NAMES = ("accuracy", "f1", "auroc", "average_precision", "calibration_error", "balanced_accuracy")


class Together(Ranks):
    """Ranks that are threads of this process."""

    def __init__(self, rank: int, others: list[Any], barrier: threading.Barrier) -> None:
        super().__init__(rank, len(others))
        self._given, self._barrier = others, barrier

    def gather_bytes(self, data: bytes) -> list[bytes]:
        self._given[self.rank] = data
        self._barrier.wait(timeout=10)
        return list(self._given)


def meter() -> Meter:
    return Meter({name: gauge(name, Judged("classes", 3)) for name in NAMES})


@pytest.mark.parametrize("cuts", [(30, 70), (100, 0), (1, 99)])
def test_ranks_with_uneven_shares_agree(cuts: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, truths = torch.randn(100, 3, generator=generator), torch.randint(0, 3, (100,), generator=generator)
    whole = meter()
    whole.update({"outputs": (outputs, truths)})
    expected = {name: float(value) for name, value in whole.results(Ranks()).items()}
    given: list[Any] = [None, None]
    barrier = threading.Barrier(2)

    def one(rank: int) -> dict[str, float]:
        mine, rows = meter(), torch.arange(100).split(cuts)[rank]
        if len(rows):
            mine.update({"outputs": (outputs[rows], truths[rows])})
        return {name: float(value) for name, value in mine.results(Together(rank, given, barrier)).items()}

    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(one, range(2)):
            assert found == pytest.approx(expected, abs=1e-6)


def test_a_reset_forgets() -> None:
    one = meter()
    one.update({"outputs": (torch.eye(3), torch.tensor([1, 2, 0]))})
    assert float(one.results(Ranks())["accuracy"]) == 0
    one.reset()
    one.update({"outputs": (torch.eye(3), torch.tensor([0, 1, 2]))})
    assert float(one.results(Ranks())["accuracy"]) == 1
    one.update({"something else": (torch.eye(3), torch.tensor([1, 2, 0]))})
    assert float(one.results(Ranks())["accuracy"]) == 1
