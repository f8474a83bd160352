from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from scaledl.bench import (
    BenchTarget,
    bench_rows,
    bench_targets,
    count_macs,
    count_params,
    measure,
    ratio,
    summarize,
    to_table,
)
from scaledl.config.schema import (
    Config,
    DataConfig,
    ExportConfig,
    GRUConfig,
    LSTMConfig,
    MLPConfig,
    ResNetConfig,
    RNNConfig,
)
from scaledl.data import build_data
from scaledl.errors import UsageError
from scaledl.export import export_torchscript
from scaledl.models.attention import SelfAttention
from scaledl.models.quantized import calibrating, convert, prepare_ptq
from scaledl.models.structure import new_model, save_model
from scaledl.run import Run
from scaledl.runtime.signature import Inputs

pytestmark = pytest.mark.unit

POSITIVE = st.floats(0.01, 100, allow_nan=False)


def sleeper(milliseconds: float) -> Any:
    return lambda x: time.sleep(milliseconds / 1e3)


def test_rounds_are_interleaved() -> None:
    order: list[str] = []

    def target(name: str) -> Any:
        def call(x: Tensor) -> None:
            order.append(f"{name}{len(x)}")
            time.sleep(0.001)

        return call

    found = measure(
        {"a": target("a"), "b": target("b")}, lambda size: torch.zeros(size, 1, 2, 2), [1, 3], rounds=3, seconds=0.004
    )

    assert [(row.name, row.batch_size, row.rounds) for row in found] == [
        *(("a", 1, 3), ("b", 1, 3)),
        *(("a", 3, 3), ("b", 3, 3)),
    ]
    for size in "13":
        turns = [name for name in order if name[1] == size]
        blocks = [name[0] for i, name in enumerate(turns) if i == 0 or turns[i - 1] != name]
        assert "".join(blocks) == "ab" * 4  # the warm-up of each, then three rounds


def test_latency_and_ratio_of_known_durations() -> None:
    slow, quick = measure(
        {"slow": sleeper(8), "quick": sleeper(2)}, lambda size: torch.zeros(size, 1), [1], rounds=5, seconds=0.016
    )
    assert 2 <= quick.minimum_ms <= quick.p50_ms <= quick.p95_ms
    assert slow.minimum_ms >= 8
    found = ratio(slow, quick)
    assert 2 < found.value < 5
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize("fails", [False, True])
def test_threads_are_pinned_and_restored(fails: bool) -> None:
    before = torch.get_num_threads()
    seen = set()

    def call(x: Tensor) -> None:
        seen.add(torch.get_num_threads())
        if fails:
            raise RuntimeError("broken")

    wanted = before + 1
    if fails:
        with pytest.raises(RuntimeError, match="broken"):
            measure({"a": call}, lambda size: torch.zeros(size, 1), [1], threads=wanted, rounds=3, seconds=0.001)
    else:
        measure({"a": call}, lambda size: torch.zeros(size, 1), [1], threads=wanted, rounds=3, seconds=0.001)
    assert seen == {wanted}
    assert torch.get_num_threads() == before


def test_summary_of_known_times() -> None:
    found = summarize("a", 4, [[1.0, 1.1, 1.2], [1.0, 1.05, 1.1]])
    assert (found.minimum_ms, found.p50_ms, found.p95_ms) == (1.0, pytest.approx(1.075), 1.2)
    assert (found.round_ms, found.noisy) == ((1.1, 1.05), False)


@pytest.mark.parametrize(
    ("times", "noisy"),
    [
        ([[1.0, 1.0, 1.0, 1.0]], False),
        ([[1.0, 1.3, 1.3, 1.3]], True),  # the median is far from the minimum
        ([[1.0] * 17 + [9.0] * 3], True),  # a long tail
        ([[1.0] * 99 + [9.0]], False),  # one outlier in a hundred
    ],
)
def test_noise_flag(times: list[list[float]], noisy: bool) -> None:
    assert summarize("a", 1, times).noisy is noisy


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=3, max_size=15), st.integers(0, 5))
def test_ratio_is_bounded_and_repeatable(rounds: list[tuple[float, float]], seed: int) -> None:
    slow, quick = (summarize(name, 1, [[pair[i]] for pair in rounds]) for i, name in enumerate(("slow", "quick")))
    found = ratio(slow, quick, seed=seed)
    pairs = [a / b for a, b in rounds]
    assert min(pairs) <= found.low <= found.value <= found.high <= max(pairs)
    assert found == ratio(slow, quick, seed=seed)


@pytest.mark.parametrize("wrong", [{"rounds": 2}, {"targets": {}}])
def test_too_little_to_measure(wrong: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"targets": {"a": sleeper(0)}, "rounds": 3, **wrong}
    with pytest.raises(UsageError, match="at least 3"):
        measure(arguments["targets"], lambda size: torch.zeros(size, 1), [1], rounds=arguments["rounds"])


@pytest.mark.parametrize(
    ("module", "in_shape", "macs"),
    [
        (nn.Linear(5, 7), (5,), 35),
        (nn.Conv2d(3, 4, 3, padding=1), (3, 8, 8), 8 * 8 * 4 * 3 * 9),
        (nn.Conv2d(4, 8, (1, 3), stride=2, groups=2), (4, 9, 9), 5 * 4 * 8 * 2 * 3),
        (nn.ConvTranspose2d(2, 6, 2, stride=2), (2, 5, 5), 5 * 5 * 2 * 6 * 4),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.ReLU(), nn.Linear(3, 2)), (3, 2, 2), 36 + 6),
        (nn.ReLU(), (3,), 0),
        (nn.RNN(3, 5, batch_first=True), (7, 3), 7 * 5 * (3 + 5)),
        (nn.LSTM(3, 5, 2, batch_first=True), (7, 3), 7 * 4 * 5 * (3 + 5 + 5 + 5)),
        (nn.GRU(3, 5, bidirectional=True, batch_first=True), (7, 3), 7 * 2 * 3 * 5 * (3 + 5)),
        (SelfAttention(8, 2), (6, 8), 6 * 4 * 8 * 8 + 2 * 6 * 6 * 8),
    ],
)
def test_macs_by_hand(module: nn.Module, in_shape: tuple[int, ...], macs: int) -> None:
    assert count_macs(module, torch.zeros(1, *in_shape)) == macs


def test_counting_leaves_the_module_as_it_was() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout())
    module.train()
    module[1].eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    count_macs(module, torch.zeros(1, 1, 6, 6))
    assert [child.training for child in module] == [True, False, True]
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert not any(child._forward_hooks for child in module)


def test_counting_cleans_up_after_a_failure() -> None:
    module = nn.Sequential(nn.Linear(3, 2)).train()
    with pytest.raises(RuntimeError):
        count_macs(module, torch.zeros(1, 4))
    assert module.training
    assert not module[0]._forward_hooks


def test_parameters() -> None:
    assert count_params(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))) == 3 * 2 + 2 + 4


def test_quantized_forms_have_the_macs_of_the_float_model() -> None:
    torch.set_num_threads(1)
    model = new_model(ResNetConfig(family="resnet", depth=8, width=4), (1, 8, 8), 10, 0)
    prepared = prepare_ptq(model, "x86")
    with calibrating(prepared.module), torch.no_grad():
        prepared.module(torch.randn(32, 1, 8, 8))
    expected = count_macs(model.module, torch.zeros(1, 1, 8, 8))
    # stem, three blocks, two 1x1 shortcuts, classifier
    assert expected == 64 * 9 * 4 * (1 + 8) + 16 * (9 * 8 * 12 + 8 * 4) + 4 * (9 * 16 * 24 + 16 * 8) + 160
    assert count_macs(prepared.module, torch.zeros(1, 1, 8, 8)) == expected
    assert count_macs(convert(prepared), torch.zeros(1, 1, 8, 8)) == expected


@pytest.mark.parametrize(("family", "gates"), [(RNNConfig, 1), (LSTMConfig, 4), (GRUConfig, 3)])
def test_recurrent_layers_in_int8_have_the_macs_of_the_float_model(family: Any, gates: int) -> None:
    name = family.__name__.removesuffix("Config").lower()
    model = new_model(family(family=name, hidden=5, bidirectional=True), (3, 7), 2, 0)
    x = torch.zeros(1, 3, 7)
    prepared = prepare_ptq(model, "x86")
    with calibrating(prepared.module), torch.no_grad():
        prepared.module(torch.randn(8, 3, 7))
    expected = 7 * 2 * gates * 5 * (3 + 5) + 10 * 2
    assert [count_macs(each, x) for each in (model.module, prepared.module, convert(prepared))] == [expected] * 3


def test_rows_hold_the_ratio_to_the_first() -> None:
    targets = [BenchTarget("a", sleeper(4), Inputs.of((1,)), 4000), BenchTarget("b", sleeper(1), Inputs.of((1,)), 1000)]
    first, second = bench_rows(targets, [2], rounds=3, seconds=0.008)
    assert first.faster is None
    assert second.faster is not None
    assert 1.5 < second.faster.value < 5
    document = json.loads(json.dumps([first.to_dict(), second.to_dict()]))
    assert document[0]["faster"] is None
    assert document[1]["faster"].keys() == {"value", "low", "high"}
    assert (document[1]["name"], document[1]["batch_size"], document[1]["size_bytes"]) == ("b", 2, 1000)

    columns, rows, title = to_table([first, second])
    assert all(len(row) == len(columns) for row in rows)
    assert rows[0][columns.index("target")] == "a"
    assert rows[1][columns.index("size kB")] == "1.0"
    assert "torch" in title


def test_targets_of_different_inputs_are_refused() -> None:
    targets = [
        BenchTarget("a", sleeper(0), Inputs.of((1, 8, 8)), 1),
        BenchTarget("b", sleeper(0), Inputs.of((3, 8, 8)), 1),
    ]
    with pytest.raises(UsageError, match=r"a image \[1, 8, 8\], b image \[3, 8, 8\]"):
        bench_rows(targets, [1])


def test_files_and_runs_side_by_side(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    data = build_data(DataConfig(), 0)
    config = Config(model=MLPConfig(family="mlp", hidden=[8]))
    model = new_model(config.model, data.spec.in_shape, 10, 0)
    run = Run.create(tmp_path / "runs", "small", "one", config=config)
    run.begin()
    save_model(model, run.model_dir)
    run.record("model")
    run.finish("complete")
    path = tmp_path / "small.ts"
    export_torchscript(model, data, path, config=ExportConfig(), source={})

    rows = bench_targets(["small", path, path], tmp_path / "runs", batch_sizes=[1, 2], rounds=3, seconds=0.002)

    names = ["small/one (eager fp32)", f"{path} #1", f"{path} #2"]
    assert [row.latency.name for row in rows] == names * 2
    assert rows[1].size_bytes == path.stat().st_size
    assert all(row.latency.minimum_ms > 0 for row in rows)
    with pytest.raises(UsageError, match="no such file"):
        bench_targets([tmp_path / "missing.ts"], tmp_path / "runs")
