"""Latency, size, parameters and MACs of models and exported files."""

from scaledl.bench.count import count_macs, count_params
from scaledl.bench.latency import Latency, Ratio, measure, ratio, summarize
from scaledl.bench.targets import BenchRow, BenchTarget, bench_rows, bench_targets, build_target, to_table

__all__ = [
    "BenchRow",
    "BenchTarget",
    "Latency",
    "Ratio",
    "bench_rows",
    "bench_targets",
    "build_target",
    "count_macs",
    "count_params",
    "measure",
    "ratio",
    "summarize",
    "to_table",
]
