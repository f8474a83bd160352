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


def of_numbers(*batches: tuple[torch.Tensor, torch.Tensor]) -> dict[str, float]:
    one = Meter({name: gauge(name, Judged("numbers", 2)) for name in ("rmse", "r2", "mse", "mae")})
    for outputs, truths in batches:
        one.update({"outputs": (outputs, truths)})
    return {name: float(value) for name, value in one.results(Ranks()).items()}


def test_a_number_that_no_sample_has_counts_for_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    truths = torch.randn(50, 2, generator=generator)
    outputs = truths + 0.5 * torch.randn(50, 2, generator=generator)
    half = truths.clone()
    half[:, 1] = torch.nan
    errors = (outputs - truths)[:, 0].double()
    found = of_numbers((outputs, half), (outputs[:3], torch.full((3, 2), torch.nan)))
    assert found["rmse"] == pytest.approx(float(errors.square().mean().sqrt()))
    spread = truths[:, 0].double().var(correction=0)
    assert found["r2"] == pytest.approx(float(1 - errors.square().mean() / spread))


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_r2_does_not_depend_on_the_unit(unit: float) -> None:
    generator = torch.Generator().manual_seed(0)
    truths = torch.randn(50, 2, generator=generator)
    outputs = truths + 0.5 * torch.randn(50, 2, generator=generator)
    assert of_numbers((outputs * unit, truths * unit))["r2"] == pytest.approx(0.7789, abs=1e-4)
    alike = torch.full((50, 2), 3.7) * unit
    assert of_numbers((alike, alike))["r2"] == 1
    assert of_numbers((alike + 0.1 * unit, alike))["r2"] == 0


@pytest.mark.parametrize(("figure", "scale"), [("accuracy", "classes"), ("f1", "labels"), ("rmse", "numbers")])
def test_a_batch_without_any_truth_changes_nothing(figure: str, scale: Any) -> None:
    truths = torch.tensor([0, 1, 1]) if scale == "classes" else torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    outputs = torch.tensor([[1.0, -1.0], [2.0, 1.0], [-1.0, 3.0]])
    plain, other = (Meter({figure: gauge(figure, Judged(scale, 2))}) for _ in range(2))
    plain.update({"outputs": (outputs, truths)})
    for rows in (slice(0), slice(None), slice(0)):
        other.update({"outputs": (outputs[rows], truths[rows])})
    assert other.results(Ranks()) == plain.results(Ranks())
