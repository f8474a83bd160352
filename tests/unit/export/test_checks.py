"""Every check can fail: each is given an observation with one thing wrong."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scaledl.export import checks
from scaledl.export.checks import Check, Verification
from scaledl.export.clean_process import Observation
from scaledl.export.reference import Reference
from scaledl.runtime.artifact import ArtifactSpec, Cases, InputSpec
from scaledl.runtime.outputs import OutputSpec

pytestmark = pytest.mark.unit

NAMES = ("a", "b", "c")
SINGLES = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0], [4.0, 0.0, 0.0]])
KERNELS = {"int8": {"quantized::conv2d": 2, "quantized::linear": 1}, "float": {}}


def observation(**changes: Any) -> Observation:
    report = {"versions": {"torch": "2", "python": "3"}, "scaledl_imported": False, "kernels": KERNELS}
    outputs = {"cases": SINGLES, "singles": SINGLES, "test": SINGLES}
    outputs |= {f"batch_{size}": SINGLES[torch.arange(size) % 4] for size in (1, 3, 32)}
    return Observation({**report, **changes.pop("report", {})}, {**outputs, **changes})


CLASS = OutputSpec("class", "vector", (3,))


def spec(int8: bool, output: OutputSpec = CLASS) -> ArtifactSpec:
    return ArtifactSpec(NAMES, InputSpec((1, 1, 1), (0.0,), (1.0,)), output, "x86" if int8 else None, {})


def reference(**changes: Any) -> Reference:
    made = Reference(SINGLES, None, torch.tensor([0, 1, 2, 0]), NAMES, 0.0)
    return dataclasses.replace(made, **changes)


def failed(made: list[Check]) -> list[str]:
    return [check.name for check in made if not check.ok]


def test_measures_of_difference() -> None:
    off = SINGLES.clone()
    off[0, 1] = 0.5
    assert checks.max_error(off, SINGLES) == 0.5
    assert checks.agreement(off, SINGLES, CLASS) == 1.0
    off[0, 1] = 1.5
    assert checks.agreement(off, SINGLES, CLASS) == 0.75
    off[0, 1] = math.nan
    assert checks.max_error(off, SINGLES) == math.inf
    assert checks.agreement(off, SINGLES, CLASS) == 0.75
    assert checks.sqnr_db(off, SINGLES) == -200


def test_sqnr_of_known_noise() -> None:
    signal = torch.full((10, 4), 10.0)
    assert checks.sqnr_db(signal + 0.1, signal) == pytest.approx(40, abs=1e-3)
    assert checks.sqnr_db(signal, signal) == 200


@pytest.mark.parametrize("imported", [False, True])
def test_clean(imported: bool) -> None:
    assert checks.check_clean(observation(report={"scaledl_imported": imported}).report).ok is not imported


@pytest.mark.parametrize(
    ("outputs", "int8", "ok"),
    [
        (SINGLES + 1e-5, False, True),
        (SINGLES + 1e-3, False, False),
        (SINGLES * float("nan"), False, False),
        (SINGLES[:, :2], False, False),
        (SINGLES + 1e-3, True, True),
        (SINGLES + 1.0, True, False),
        (SINGLES * float("nan"), True, False),
    ],
)
def test_cases(outputs: Tensor, int8: bool, ok: bool) -> None:
    cases = Cases(torch.zeros(4, 1, 1, 1, dtype=torch.uint8), torch.zeros(4), SINGLES)
    assert checks.check_cases(observation(cases=outputs), cases, int8).ok is ok


@pytest.mark.parametrize("size", [1, 3, 32])
def test_batches(size: int) -> None:
    right = SINGLES[torch.arange(size) % 4]
    wrong = right.clone()
    wrong[-1] += 0.01
    for int8 in (False, True):
        assert checks.check_batches(observation(), int8).ok
        assert not checks.check_batches(observation(**{f"batch_{size}": wrong}), int8).ok
        assert not checks.check_batches(observation(**{f"batch_{size}": right.flip(1)}), int8).ok
    short = checks.check_batches(observation(**{f"batch_{size}": right[1:]}), False)
    assert (short.ok, f"a batch of {size} gives" in short.detail) == (False, True)


@pytest.mark.parametrize(
    "kernel", ["aten::quantized_lstm", "aten::quantized_gru", "quantized::quantized_rnn_tanh_cell_dynamic"]
)
def test_rows_may_depend_on_their_batch_where_ranges_do(kernel: str) -> None:
    report = {"kernels": {"int8": {kernel: 1, "quantized::linear": 1}, "float": {}}}
    near, far = SINGLES + 0.02, SINGLES + 0.5
    check = checks.check_batches(observation(report=report, batch_3=near[:3]), True)
    assert check.ok
    assert "ranges are those of a batch; against single inputs SQNR 36 dB" in check.detail
    assert not checks.check_batches(observation(report=report, batch_3=far[:3]), True).ok
    assert not checks.check_batches(observation(batch_3=near[:3]), True).ok


def test_products_of_activations_are_told_and_no_fault() -> None:
    products = {"aten::scaled_dot_product_attention": 2}
    kernels = {"int8": {"quantized::linear": 7}, "float": {}, "products": products}
    check = checks.check_kernels({"kernels": kernels}, True)
    assert check.ok
    assert check.detail.endswith("products of activations, always float: 2 aten::scaled_dot_product_attention")


@pytest.mark.parametrize(
    ("int8_kernels", "float_kernels", "int8", "ok"),
    [
        ({"quantized::conv2d": 3}, {}, True, True),
        ({}, {}, True, False),
        ({}, {"aten::conv2d": 3}, True, False),
        ({"quantized::conv2d": 3}, {"aten::conv2d": 1}, True, False),
        ({"quantized::conv2d": 3}, {"aten::linear": 1}, True, False),
        ({}, {"aten::conv2d": 3}, False, True),
        ({"quantized::linear": 1}, {"aten::conv2d": 3}, False, False),
        ({"aten::quantized_lstm": 1, "quantized::linear": 1}, {}, True, True),
        ({"quantized::linear": 1}, {"aten::lstm": 1}, True, False),
        ({"quantized::linear": 1}, {"aten::rnn_tanh": 1}, True, False),
    ],
)
def test_kernels(int8_kernels: dict[str, int], float_kernels: dict[str, int], int8: bool, ok: bool) -> None:
    check = checks.check_kernels({"kernels": {"int8": int8_kernels, "float": float_kernels}}, int8)
    assert check.ok is ok
    assert all(f"{count} {name}" in check.detail for name, count in {**int8_kernels, **float_kernels}.items())


@pytest.mark.parametrize(
    ("observed", "expected", "int8", "failing"),
    [
        ({}, {}, False, []),
        ({"test": SINGLES + 1e-5}, {}, False, []),
        ({"test": SINGLES + 1e-2}, {}, False, ["source model"]),
        ({"test": SINGLES[:, :2]}, {}, False, ["source model"]),
        ({"test": SINGLES * float("inf")}, {}, False, ["source model", "test accuracy"]),
        ({}, {"class_names": ("a", "c", "b")}, False, ["labels"]),
        ({}, {"preprocessing_error": 1e-3}, False, ["preprocessing"]),
        ({}, {}, True, ["labels"]),  # the file says int8, the model is float
        ({}, {"fake_quantized": SINGLES}, False, ["labels"]),  # the reverse
        ({}, {"fake_quantized": SINGLES + 0.02}, True, []),
        ({"test": SINGLES + 1e-4}, {"fake_quantized": SINGLES}, True, ["source model"]),
        ({}, {"fake_quantized": SINGLES + 2}, True, ["fake-quantized model"]),
        ({}, {"fake_quantized": SINGLES.flip(1)}, True, ["fake-quantized model"]),
    ],
)
def test_source(observed: dict[str, Any], expected: dict[str, Any], int8: bool, failing: list[str]) -> None:
    made = checks.check_source(observation(**observed), reference(**expected), spec(int8))
    assert failed(made) == failing


def test_verdict() -> None:
    good, bad = Check("a", True, "fine"), Check("b", False, "broken")
    passed = Verification(Path("x.ts"), "0" * 64, 5, (good,), latency={1: {"p50_ms": 0.5}})
    assert (passed.ok, passed.failures) == (True, "")
    assert json.loads(json.dumps(passed.to_dict()))["latency"] == {"1": {"p50_ms": 0.5}}
    refused = dataclasses.replace(passed, checks=(good, bad))
    assert (refused.ok, refused.failures) == (False, "b: broken")


NUMBERS = OutputSpec("numbers", "vector", (3,), (10.0,) * 3, (2.0,) * 3)
LABELS = OutputSpec("classes", "vector", (3,))
MASK = OutputSpec("mask", "pixels", (3, 2, 2))
AGAIN = OutputSpec("input", "input", (3,))
PIXELS = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("output", "outputs", "off", "expected"),
    [
        (LABELS, SINGLES - 0.5, SINGLES - 0.5, 1.0),
        (LABELS, SINGLES - 0.5, 0.5 - SINGLES, 0.0),
        (LABELS, SINGLES - 0.5, (SINGLES - 0.5).where(SINGLES < 2, torch.nan), 9 / 12),
        (MASK, PIXELS, PIXELS + 1, 1.0),
        (MASK, PIXELS, PIXELS.where(torch.tensor([True, False, False, False]).view(4, 1, 1, 1), torch.nan), 0.25),
        (NUMBERS, SINGLES, SINGLES + 1, None),
        (AGAIN, SINGLES, SINGLES + 1, None),
    ],
)
def test_agreement_is_about_what_outputs_decide(
    output: OutputSpec, outputs: Tensor, off: Tensor, expected: float | None
) -> None:
    assert checks.agreement(off, outputs, output) == expected


def test_figures_by_kind_of_output() -> None:
    assert checks.figure(SINGLES, torch.tensor([0, 1, 2, 1]), CLASS) == ("accuracy", 0.75)
    there = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]])
    assert checks.figure(SINGLES - 0.5, there, LABELS) == ("accuracy", 10 / 12)
    mask = PIXELS.argmax(1)
    mask[0, 0, 0], mask[1, 1] = (mask[0, 0, 0] + 1) % 3, -100
    assert checks.figure(PIXELS, mask, MASK) == ("accuracy", pytest.approx(13 / 14))
    assert checks.figure(SINGLES, SINGLES * 2 + 10 + 3, NUMBERS) == ("rmse", 3.0)
    assert checks.figure(SINGLES, torch.zeros(4), AGAIN) is None


@pytest.mark.parametrize("output", [NUMBERS, AGAIN])
@pytest.mark.parametrize(
    ("observed", "expected", "int8", "failing"),
    [
        ({}, {}, False, []),
        ({"test": SINGLES + 1e-2}, {}, False, ["source model"]),
        ({"test": SINGLES * float("nan")}, {}, False, ["source model", "figure"]),
        ({}, {"fake_quantized": SINGLES + 0.02}, True, []),
        ({}, {"fake_quantized": SINGLES + 1}, True, ["fake-quantized model"]),
        ({"test": SINGLES + 1e-4}, {"fake_quantized": SINGLES}, True, ["source model"]),
    ],
)
def test_outputs_that_decide_nothing_are_held_to_their_error(
    output: OutputSpec, observed: dict[str, Any], expected: dict[str, Any], int8: bool, failing: list[str]
) -> None:
    labels = SINGLES * 2 + 10
    made = checks.check_source(observation(**observed), reference(labels=labels, **expected), spec(int8, output))
    figure = "test RMSE" if output is NUMBERS else "finite outputs"
    assert failed(made) == [name.replace("figure", figure) for name in failing]
    assert not any("same" in check.detail for check in made if check.name == "source model")
