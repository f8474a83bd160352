"""`scaledl plan` as a command: what it prints, what it refuses, and that it leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.integration.conftest import Call, run_command

pytestmark = pytest.mark.integration


def test_neighbours_of_the_config_in_one_table(empty: Path) -> None:
    done = run_command(empty, "plan", "tiny.yaml", "--devices", "1,2", "--nodes", "1,2", "--bandwidth", "10")
    assert done.code == 0, done.err
    header, _, *rows = [line for line in done.out.splitlines() if not line.startswith("measuring")]
    assert header.split()[:3] == ["layout", "batch/rank", "memory/rank"]
    assert [row.split("  ")[0] for row in rows[:4]] == [
        "1 node x 1",
        "1 node x 2, ddp",
        "2 nodes x 1, ddp",
        "2 nodes x 2, ddp",
    ]
    assert any(line.startswith("measured on this machine (CPU, fp32") for line in rows)
    assert "bandwidth 10.00 GB/s, given" in rows
    assert [path.name for path in empty.iterdir()] == ["tiny.yaml"]


def test_json_has_bytes_and_seconds_of_each_layout(empty: Path) -> None:
    done = run_command(
        empty, "plan", "tiny.yaml", "--devices", "2", "--strategy", "deepspeed", "--stage", "1", "--json"
    )
    assert done.code == 0, done.err
    document = json.loads(done.out)
    [found] = document["layouts"]
    assert (found["ranks"], found["layout"]["stage"], found["micro_batch"]) == (2, 1, 128)
    memory = found["memory"]
    assert sum(memory["parts"].values()) == memory["peaks"]["train"] <= memory["peak"]
    # 64 pixels, 32 units, 10 classes, two moments in fp32, of which each of two ranks has half
    assert memory["parts"]["optimizer"] == 2 * 4 * (64 * 32 + 32 + 32 * 10 + 10) // 2
    assert found["bandwidth"]["source"].startswith("measured")
    assert 0 < found["seconds"]["exchange"] < found["seconds"]["step"] < found["seconds"]["total"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nodes", "0"], "--nodes: got '0'"),
        (["--devices", "2,x"], "--devices: got '2,x'"),
        (["--stage", "7"], "--stage: got '7'; allowed: 1, 2, 3"),
        (["--stage", "1", "--strategy", "ddp"], "--stage: got 1 with --strategy ddp"),
        (["--bandwidth", "nan"], "--bandwidth: got 'nan'"),
        (["--bandwidth", "fast"], "--bandwidth: got 'fast'"),
        (["--devices", "300"], "data.batch_size: got 256"),
        (["--strategy", "zero"], "--strategy: unknown value 'zero'"),
        (["optimizer.lr=0"], "optimizer.lr"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_measured(
    words: list[str], message: str, empty: Path, call: Call
) -> None:
    done = call(empty, "plan", "tiny.yaml", *words)
    assert done.code == 2
    assert message in done.err
    assert "measuring" not in done.out


def test_a_trial_that_cannot_train_says_why(empty: Path, call: Call) -> None:
    done = call(empty, "plan", "tiny.yaml", "--devices", "1", "data.source=fashion_mnist", "data.root=nowhere")
    assert done.code == 2
    assert "data.root" in done.err
    assert "Traceback" not in done.err
