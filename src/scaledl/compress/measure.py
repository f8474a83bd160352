"""What a stage's row holds: figures of an exported file, measured on the file itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from scaledl.bench import count_macs, count_params, measure
from scaledl.compress.rows import StageRow
from scaledl.config import Config
from scaledl.data import DataModule
from scaledl.evaluate import evaluate_split
from scaledl.models.quantized import without_quantization
from scaledl.models.structure import Model, build
from scaledl.runtime.signature import Inputs
from scaledl.runtime.torchscript import load

Forward = Callable[[Tensor], Tensor]


def describe_file(name: str, model: Model, path: Path, file: str, config: Config, data: DataModule) -> StageRow:
    """The headline on the test split and size of the exported file, parameters and MACs of the (float) structure that
    it was made from."""
    evaluation = evaluate_split(load(path).forward, data, config, "test")
    float_module = build(without_quantization(model.structure), trust=True).eval()
    macs = count_macs(float_module, model.structure.inputs.example(1))
    figures = evaluation.score, count_params(float_module), macs, path.stat().st_size
    return StageRow(name, *figures, file=file, metric=evaluation.headline)


def file_forward(path: Path, config: Config) -> Forward:
    """The exported file as it is timed: loaded afresh, since int8 kernels adapt to the first batch sizes they see."""
    return load(path, batch_sizes=config.export.latency_batch_sizes).forward


def eager_forward(model: Model) -> Forward:
    """The module itself, in eager mode."""

    def forward(x: Tensor) -> Tensor:
        with torch.inference_mode():
            output: Tensor = model.module(x)
        return output

    return forward


def with_latency(
    rows: Sequence[StageRow], targets: Mapping[str, Forward], inputs: Inputs, config: Config
) -> list[StageRow]:
    """The rows with their latency, all targets (by row name) interleaved."""
    sizes, threads = config.export.latency_batch_sizes, config.export.latency_threads
    results = measure(targets, inputs.example, sizes, threads=threads)
    return [
        dataclasses.replace(
            row,
            latency_ms={r.batch_size: r.p50_ms for r in results if r.name == row.name},
            noisy=any(r.noisy for r in results if r.name == row.name),
        )
        for row in rows
    ]
