"""FTRL-Proximal and AdaGrad dual averaging against their papers' formulas, in NumPy and double precision."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.optim import Adagrad, Optimizer

from scaledl.optim.adagrad_da import AdagradDA
from scaledl.optim.ftrl import FTRL

pytestmark = pytest.mark.numerics

Array = NDArray[np.float64]
Rate = Callable[[int], float]
STEPS = 40
SHAPES = ((7, 5), (5,), (3, 2, 3))
PENALTIES = [(0.0, 0.0), (0.3, 0.0), (0.0, 0.2), (0.3, 0.2)]
RATES: dict[str, Rate] = {
    "constant": lambda step: 0.1,
    "changing": lambda step: 0.1 * min(step + 1, 5) / 5 * (1 - step / (STEPS + 1)),
}


def gradient(step: int, weights: Array) -> Array:
    """Of half the squared distance to a place that moves, with noise."""
    rng = np.random.default_rng(step)
    place = np.linspace(-0.5, 0.5, weights.size).reshape(weights.shape)
    return weights - place + rng.normal(0, 0.3, weights.shape)


def ftrl(w: Array, l1: float, l2: float, rate: Rate, n0: float) -> Array:
    """McMahan et al. 2013, algorithm 1, with sigma as the change of sqrt(n) / rate; z_0 says that w is the optimum."""
    n = np.full_like(w, n0)
    slope = np.sqrt(n) / rate(0)
    z = -slope * w
    for step in range(STEPS):
        g = gradient(step, w)
        n += g**2
        sigma = np.sqrt(n) / rate(step) - slope
        slope += sigma
        z += g - sigma * w
        w = np.where(np.abs(z) <= l1, 0.0, -(z - np.sign(z) * l1) / (slope + l2))
    return w


def dual_averaging(w: Array, l1: float, l2: float, rate: Rate, n0: float) -> Array:
    """TensorFlow's ApplyAdagradDA (Duchi et al. 2011, equation 3), for w_1 = 0 and a constant rate literally."""
    start, gg, total, rates = w, np.full_like(w, n0), np.zeros_like(w), 0.0
    for step in range(STEPS):
        g = gradient(step, w)
        gg += g**2
        total, rates = total + rate(step) * g, rates + rate(step)
        pull = np.sqrt(gg) * start - total
        w = np.sign(pull) * np.maximum(np.abs(pull) - l1 * rates, 0) / (l2 * rates + np.sqrt(gg))
    return w


def tensorflow_da(w: Array, l1: float, l2: float, lr: float, n0: float) -> Array:
    gg, total = np.full_like(w, n0), np.zeros_like(w)
    for step in range(STEPS):
        g = gradient(step, w)
        total, gg, t = total + g, gg + g**2, step + 1
        shrunk = np.sign(total) * np.maximum(np.abs(total) - l1 * t, 0) if l1 else total
        w = -lr * shrunk / (l2 * t * lr + np.sqrt(gg))
    return w


def starts() -> list[Array]:
    rng = np.random.default_rng(0)
    return [rng.normal(0, 0.5, shape) for shape in SHAPES]


def trained(kind: Callable[..., Optimizer], begin: list[Array], rate: Rate, **kw: float) -> list[Array]:
    parameters = [torch.nn.Parameter(torch.tensor(w, dtype=torch.float32)) for w in begin]
    optimizer = kind(parameters, **kw)
    walk(optimizer, parameters, range(STEPS), rate)
    return [parameter.detach().double().numpy() for parameter in parameters]


def walk(optimizer: Optimizer, parameters: list[torch.nn.Parameter], steps: range, rate: Rate) -> None:
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        for parameter in parameters:
            parameter.grad = torch.tensor(gradient(step, parameter.detach().double().numpy()), dtype=torch.float32)
        optimizer.step()


@pytest.mark.parametrize("rate", RATES.values(), ids=RATES)
@pytest.mark.parametrize(("l1", "l2"), PENALTIES)
@pytest.mark.parametrize(("kind", "reference"), [(FTRL, ftrl), (AdagradDA, dual_averaging)])
def test_steps_are_those_of_the_paper(kind, reference, l1, l2, rate) -> None:  # type: ignore[no-untyped-def]
    strengths = {"l1": l1 * (10 if kind is FTRL else 1), "l2": l2}  # FTRL's stays while gradients add up
    found = trained(kind, starts(), rate, initial_accumulator=0.1, **strengths)
    for weights, begin in zip(found, starts(), strict=True):
        expected = reference(begin, **strengths, rate=rate, n0=0.1)
        np.testing.assert_allclose(weights, expected, rtol=2e-4, atol=2e-6)
        zeros = weights == 0  # l1 makes exact zeros, and makes the same ones
        np.testing.assert_array_equal(zeros, expected == 0)
        assert zeros.any() == (l1 > 0)
        assert not zeros.all()


def test_dual_averaging_from_zero_is_that_of_tensorflow() -> None:
    begin = [np.zeros(shape) for shape in SHAPES]
    found = trained(AdagradDA, begin, RATES["constant"], initial_accumulator=0.1, l1=0.2, l2=0.3)
    for weights, start in zip(found, begin, strict=True):
        np.testing.assert_allclose(weights, tensorflow_da(start, 0.2, 0.3, 0.1, 0.1), rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("rate", RATES.values(), ids=RATES)
def test_ftrl_without_penalties_is_adagrad(rate: Rate) -> None:
    found = trained(FTRL, starts(), rate, initial_accumulator=0.1)
    expected = trained(Adagrad, starts(), rate, initial_accumulator_value=0.1, eps=0.0)
    for weights, others in zip(found, expected, strict=True):
        np.testing.assert_allclose(weights, others, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", [FTRL, AdagradDA])
def test_zeros_return_when_gradients_ask_for_it(kind: type[FTRL] | type[AdagradDA]) -> None:
    weight = torch.nn.Parameter(torch.full((2, 2), 0.01))
    optimizer = kind([weight], lr=0.5, l1=1.0)
    weight.grad = torch.zeros(2, 2)
    for _ in range(3):
        optimizer.step()
    assert not weight.detach().any()
    for _ in range(20):
        weight.grad = torch.tensor([[-3.0, 0.0], [0.0, 0.0]])
        optimizer.step()
    assert weight[0, 0] > 0
    assert weight.count_nonzero() == 1


@pytest.mark.parametrize("kind", [FTRL, AdagradDA])
def test_a_state_that_was_saved_goes_on_to_the_last_bit(kind: type[FTRL] | type[AdagradDA]) -> None:
    rate, strengths = RATES["changing"], {"l1": 0.05, "l2": 0.01}
    one = [torch.nn.Parameter(torch.tensor(w, dtype=torch.float32)) for w in starts()]
    whole = kind(one, **strengths)
    walk(whole, one, range(10), rate)
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    other = [torch.nn.Parameter(parameter.detach().clone()) for parameter in one]
    resumed = kind(other, **strengths)
    resumed.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    walk(whole, one, range(10, 20), rate)
    walk(resumed, other, range(10, 20), rate)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", [FTRL, AdagradDA])
def test_parameters_without_a_gradient_stay_and_catch_up(kind: type[FTRL] | type[AdagradDA]) -> None:
    first, late = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = kind([first, late], lr=0.1, l1=0.01)
    first.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(late.detach(), torch.ones(3))
    kept = first.detach().clone()
    first.grad, late.grad = None, torch.ones(3)
    optimizer.step()
    assert torch.equal(late.detach(), kept)
    assert torch.equal(first.detach(), kept)


@pytest.mark.parametrize("kind", [FTRL, AdagradDA])
def test_a_sum_that_begins_at_zero_is_refused(kind: type[FTRL] | type[AdagradDA]) -> None:
    with pytest.raises(ValueError, match=r"initial_accumulator: got 0\.0; allowed: a number greater than 0"):
        kind([torch.nn.Parameter(torch.ones(1))], initial_accumulator=0.0)
