"""The single checks of a verification: pure functions from what was observed to a verdict with its reason."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scaledl.config.figures import heading, written
from scaledl.data.arrays import IGNORED
from scaledl.export.clean_process import BATCH_SIZES, Observation
from scaledl.export.reference import Reference
from scaledl.runtime.artifact import ArtifactSpec, Cases
from scaledl.runtime.outputs import OutputSpec

# Largest difference of two outputs, per unit of the largest output (at least 1).
FLOAT_TOLERANCE = 1e-4  # scripted against eager; about 1e-7 is seen, kernels and their order of summation differ
INT8_TOLERANCE = 1e-6  # the file against the module it was made from, same machine: equal to the bit is what is seen
FLOAT_AGREEMENT = 0.999
# An int8 file on another processor rounds differently in places: its cases are held to a signal-to-noise ratio.
INT8_CASES_SQNR_DB = 25.0
# Converted against fake-quantized: rounding differs in each layer, about as much as quantization itself.
FAKE_QUANTIZED_SQNR_DB = 12.0
FAKE_QUANTIZED_AGREEMENT = 0.95
FAKE_QUANTIZED_AGREEMENT_INSIDE = 0.9  # of steps, pixels, tokens: where one class becomes another both are near
_MOST_DB = 200.0
DYNAMIC_KERNELS = ("aten::quantized_lstm", "aten::quantized_gru")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `detail` gives the figures, or the reason of a failure."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Verification:
    """The verdict on one exported file.

    Attributes:
        checks: in the order they were made.
        max_error: largest difference of an output from the source model, on the test split where it was at hand, else
            on the embedded cases.
        agreement: share of what is decided there (classes of inputs, steps or pixels, labels) that is the same; None
            where outputs decide nothing.
        metric, score: name and value of a figure of the outputs on the test split (accuracy, or RMSE in the units of
            the data); None where the split was not at hand, or its targets say nothing about such outputs.
        sqnr_db: int8 outputs against the fake-quantized model's.
        int8_kernels, float_kernels: convolution and linear kernels (and int8 additions) executed in one forward pass.
        size: bytes.
        latency: batch size -> minimum_ms, p50_ms, p95_ms.
    """

    path: Path
    sha256: str
    size: int
    checks: tuple[Check, ...]
    max_error: float | None = None
    agreement: float | None = None
    metric: str | None = None
    score: float | None = None
    sqnr_db: float | None = None
    int8_kernels: int = 0
    float_kernels: int = 0
    latency: dict[int, dict[str, float]] = field(default_factory=dict)

    @property
    def accuracy(self) -> float | None:
        """On the test split, 0..1; None where it was not at hand, or the outputs are no classes."""
        return self.score if self.metric == "accuracy" else None

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)

    @property
    def failures(self) -> str:
        """The failed checks in one line."""
        return "; ".join(f"{check.name}: {check.detail}" for check in self.checks if not check.ok)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **asdict(self),
            "accuracy": self.accuracy,
            "ok": self.ok,
            "path": str(self.path),
            "latency": {str(k): v for k, v in self.latency.items()},
        }


def max_error(outputs: Tensor, expected: Tensor) -> float:
    """Largest absolute difference; infinite where a value is not finite."""
    worst = float((outputs - expected).abs().max())
    return worst if math.isfinite(worst) else math.inf


def agreement(outputs: Tensor, expected: Tensor, spec: OutputSpec) -> float | None:
    """Share of decisions that are the same, 0..1; where there is NaN they never are. None where nothing is decided."""
    ours, theirs = spec.decide(outputs), spec.decide(expected)
    if ours is None or theirs is None:
        return None
    unknown = outputs.isnan() if spec.kind == "classes" else outputs.isnan().any(1)
    return float(((ours == theirs) & ~unknown).double().mean())


def figure(outputs: Tensor, labels: Tensor, spec: OutputSpec) -> tuple[str, float] | None:
    """How good outputs are: share of what is decided and labelled that is right, or the root of the mean squared error
    in the units of the data. None of outputs about which `labels` say nothing."""
    decided = spec.decide(outputs)
    if spec.kind == "numbers":
        return "rmse", float((spec.restore(outputs).double() - labels).square().nanmean().sqrt())
    if decided is None or decided.shape != labels.shape or spec.kind in ("tokens", "transcript"):
        return None
    counted = labels != IGNORED
    return "accuracy", float((decided == labels)[counted].double().mean())


def sqnr_db(outputs: Tensor, expected: Tensor) -> float:
    """Signal-to-quantization-noise ratio of `outputs` against `expected`, decibels, at most 200."""
    noise = float((outputs - expected).double().square().sum())
    signal = float(expected.double().square().sum())
    if not math.isfinite(noise):
        return -_MOST_DB
    if noise == 0:
        return _MOST_DB
    return max(-_MOST_DB, min(_MOST_DB, 10 * math.log10(max(signal, 1e-300) / noise)))


def check_clean(report: dict[str, Any]) -> Check:
    """Nothing of scaledl was loaded."""
    versions = report["versions"]
    detail = f"loaded and run with torch {versions['torch']}, Python {versions['python']}, without scaledl"
    return Check("clean process", not report["scaledl_imported"], detail)


def check_cases(observed: Observation, cases: Cases, int8: bool) -> Check:
    """The outputs that stand in the file come out again."""
    outputs = observed.outputs["cases"]
    if outputs.shape != cases.outputs.shape:
        return Check("embedded cases", False, f"outputs {list(outputs.shape)}, recorded {list(cases.outputs.shape)}")
    error = max_error(outputs, cases.outputs)
    detail = f"{len(outputs)} inputs, largest error {error:.2g}"
    if int8:
        ratio = sqnr_db(outputs, cases.outputs)
        return Check("embedded cases", ratio >= INT8_CASES_SQNR_DB, f"{detail}, SQNR {ratio:.0f} dB")
    allowed = FLOAT_TOLERANCE * _scale(cases.outputs)
    return Check("embedded cases", error <= allowed, f"{detail} (allowed {allowed:.2g})")


def check_batches(observed: Observation, int8: bool) -> Check:
    """Each row of a batch is what the input gives alone, at every batch size tried.

    Kernels that find their range while they run find it over the whole batch: their rows depend a little on each other.
    """
    singles = observed.outputs["singles"]
    allowed = (INT8_TOLERANCE if int8 else FLOAT_TOLERANCE) * _scale(singles)
    worst, least = 0.0, _MOST_DB
    for size in BATCH_SIZES:
        rows = observed.outputs[f"batch_{size}"]
        if rows.shape != (size, *singles.shape[1:]):
            return Check("batch sizes", False, f"a batch of {size} gives {list(rows.shape)}")
        expected = singles[torch.arange(size) % len(singles)]
        worst, least = max(worst, max_error(rows, expected)), min(least, sqnr_db(rows, expected))
    sizes = ", ".join(map(str, BATCH_SIZES))
    if has_dynamic_kernels(observed.report):
        detail = f"{sizes}; ranges are those of a batch; against single inputs SQNR {least:.0f} dB at least"
        return Check("batch sizes", least >= INT8_CASES_SQNR_DB, detail)
    return Check("batch sizes", worst <= allowed, f"{sizes}; rows differ from single inputs by at most {worst:.2g}")


def has_dynamic_kernels(report: dict[str, Any]) -> bool:
    """Whether int8 kernels ran that choose the range of their inputs anew for each batch."""
    return any(name.endswith("_dynamic") or name in DYNAMIC_KERNELS for name in report["kernels"]["int8"])


def check_kernels(report: dict[str, Any], int8: bool) -> Check:
    """An int8 file runs int8 kernels and no convolution, linear or recurrent layer in float; a float file no int8."""
    kernels = report["kernels"]
    counted = "; ".join(f"{kind}: {_listed(kernels[kind])}" for kind in ("int8", "float"))
    if kernels.get("products"):
        counted += f"; products of activations, always float: {_listed(kernels['products'])}"
    right = bool(kernels["int8"]) and not kernels["float"] if int8 else not kernels["int8"]
    return Check("executed kernels", right, f"{'int8' if int8 else 'float32'} file; {counted}")


def check_source(observed: Observation, reference: Reference, spec: ArtifactSpec) -> list[Check]:
    """Against the source model, over the whole test split."""
    int8 = spec.engine is not None
    checks = [
        _check_identity(reference, spec.labels, int8),
        Check(
            "preprocessing",
            reference.preprocessing_error <= 1e-6,
            f"differs from training's by at most {reference.preprocessing_error:.2g}",
        ),
    ]
    outputs, expected = observed.outputs["test"], reference.outputs
    if outputs.shape != expected.shape:
        return [
            *checks,
            Check("source model", False, f"outputs {list(outputs.shape)} instead of {list(expected.shape)}"),
        ]
    error, same = max_error(outputs, expected), agreement(outputs, expected, spec.output)
    allowed = (INT8_TOLERANCE if int8 else FLOAT_TOLERANCE) * _scale(expected)
    detail = f"{len(outputs):,} test inputs, largest error {error:.2g} (allowed {allowed:.2g})"
    detail += f", {_same(spec.output)} {_percent(same)}" if same is not None else ""
    checks.append(Check("source model", error <= allowed and (same is None or same >= FLOAT_AGREEMENT), detail))
    if reference.fake_quantized is not None:
        checks.append(_check_fake_quantized(outputs, reference.fake_quantized, spec.output))
    return [*checks, _check_figure(outputs, expected, reference.labels, spec.output)]


def _same(spec: OutputSpec) -> str:
    """What the agreement is about."""
    words = {"tags": "of each step", "transcript": "of each step", "mask": "of each pixel"}
    return {"classes": "same labels", "tokens": "same next token"}.get(
        spec.kind, f"same class {words.get(spec.kind, '')}".strip()
    )


def _check_identity(reference: Reference, class_names: tuple[str, ...], int8: bool) -> Check:
    if class_names != reference.class_names:
        return Check(
            "labels", False, f"the file has {list(class_names)[:5]}…, the data {list(reference.class_names)[:5]}…"
        )
    if int8 != reference.int8:
        kinds = {True: "int8", False: "float32"}
        return Check("labels", False, f"the file is {kinds[int8]}, the source model is {kinds[reference.int8]}")
    return Check("labels", True, f"{len(class_names)} classes, as in the data")


def _check_fake_quantized(outputs: Tensor, expected: Tensor, spec: OutputSpec) -> Check:
    """Rounding differs in each layer. Numbers have only their noise to be judged by."""
    ratio, same = sqnr_db(outputs, expected), agreement(outputs, expected, spec)
    least = FAKE_QUANTIZED_AGREEMENT if spec.form == "vector" else FAKE_QUANTIZED_AGREEMENT_INSIDE
    detail = f"SQNR {ratio:.1f} dB (at least {FAKE_QUANTIZED_SQNR_DB:.0f})"
    detail += f", {_same(spec)} {_percent(same)} (at least {100 * least:.0f} %)" if same is not None else ""
    return Check("fake-quantized model", ratio >= FAKE_QUANTIZED_SQNR_DB and (same is None or same >= least), detail)


def _check_figure(outputs: Tensor, expected: Tensor, labels: Tensor, spec: OutputSpec) -> Check:
    finite, ours, theirs = bool(outputs.isfinite().all()), figure(outputs, labels, spec), figure(expected, labels, spec)
    name = heading(f"test_{ours[0]}") if ours else "finite outputs"
    detail = f"{written(*ours)} (source model {written(*theirs)})" if ours and theirs else "all are"
    return Check(name, finite, detail if finite else "some outputs are NaN or infinite")


def _scale(expected: Tensor) -> float:
    return max(1.0, float(expected.abs().max()))


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
