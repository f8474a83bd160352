"""Every mistake gets one message and exit code 2, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import run_command

from scaledl.run import find_run

pytestmark = pytest.mark.integration

Call = Callable[..., Any]


def refused(done: Any, *words: str) -> None:
    """Exit code 2, nothing on standard output, one message with these words, no traceback."""
    assert done.code == 2, (done.out, done.err)
    assert done.out == ""
    assert "Traceback" not in done.err
    assert done.err.count("error: ") in (1, 2)  # "error: config error: …"
    for word in words:
        assert word in done.err, done.err


def tree(folder: Path) -> dict[str, int]:
    """Every path and its time of change; lock files of a refused attempt are no result."""
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "arguments", [["compress"], ["evaluate"], ["export"], ["report"], ["lineage"], ["bench", "x"], ["evaluate", "x"]]
)
def test_no_run_yet(empty: Path, call: Call, arguments: list[str]) -> None:
    refused(call(empty, *arguments), "no run", "scaledl train configs/digits.yaml")
    assert [path.name for path in empty.iterdir()] == ["tiny.yaml"]


def test_runs_says_how_to_start(empty: Path, call: Call) -> None:
    assert "scaledl train configs/digits.yaml" in call(empty, "runs").out
    assert json.loads(call(empty, "runs", "--json").out) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "nope.yaml"], ["nope.yaml: no such file"]),
        (["train", "tiny.yam"], ["did you mean 'tiny.yaml'?"]),
        (["train", "."], ["directory"]),
        (["train", "pipe"], ["FIFO"]),
        (["train", "tiny.yaml", "other.yaml"], ["other.yaml", "key=value"]),
        (["train", "tiny.yaml", "optimizer.lr=-1"], ["optimizer.lr", "-1", "greater than 0"]),
        (["train", "tiny.yaml", "trainer.epoch=1"], ["did you mean", "epochs"]),
        (["train", "tiny.yaml", "--id", "a b"], ["run.id", "'a b'", "command line"]),
        (["train", "tiny.yaml", "--id", ";$(touch x)"], ["run.id"]),
        (["train", "tiny.yaml", "--id", "a\nb"], ["run.id"]),
        (["train", "tiny.yaml", "--id", ""], ["run.id"]),
        (["train", "tiny.yaml", "--id", "latest"], ["run.id", "latest"]),
        (["train", "tiny.yaml", "--name", "../x"], ["run.name"]),
        (["train", "tiny.yaml", "run.root=/"], ["run.root"]),
        (["train", "tiny.yaml", "run.root=tiny.yaml"], ["run.root", "file, not a folder"]),
        (["train", "tiny.yaml", "run.root=/proc/x"], ["/proc/x", "run.root"]),
        (["train", "tiny.yaml", "run.root=loop/x"], ["loop", "run.root"]),
        (["train", "--resume"], ["no unfinished training run"]),
        (["train", "tiny.yaml", "--resume"], ["no unfinished training run of tiny"]),
        (["train", "--resume", "x", "--id", "y"], ["--resume and --id"]),
        (["chain", "--json"], ["compress.stages"]),
        (["verify", "nope.ts"], ["no such file"]),
        (["verify", "."], ["folder"]),
        (["verify", "pipe"], ["pipe"]),
        (["verify", "tiny.yaml"], ["not a TorchScript file"]),
        (["evaluate", "pipe"], ["pipe"]),
        (["evaluate", "tiny.yaml"], ["not a TorchScript file"]),
        (["bench", "pipe.ts"], ["pipe"]),
        (["bench", "x", "--rounds", "2"], ["--rounds", "'2'", "3 to 65536"]),
        (["bench", "x", "--threads", "-1"], ["--threads", "'-1'"]),
        (["bench", "x", "--batch-sizes", "1,x"], ["--batch-sizes", "1,x"]),
        (["runs", "--root", "tiny.yaml"], ["--root", "tiny.yaml"]),
    ],
)
def test_mistakes_without_a_run(empty: Path, call: Call, arguments: list[str], words: list[str]) -> None:
    os.mkfifo(empty / "pipe")
    os.mkfifo(empty / "pipe.ts")
    (empty / "loop").symlink_to("loop")
    refused(call(empty, *arguments), *words)
    assert sorted(path.name for path in empty.iterdir()) == ["loop", "pipe", "pipe.ts", "tiny.yaml"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compress", "first", "--method", "prun"], ["--method", "did you mean 'prune'?"]),
        (["compress", "first", "--method", ""], ["--method"]),
        (["compress", "first", "--method", "qat,prune"], ["put 'qat' last"]),
        (["compress", "first", "--method", "prune", "prune.ratio=0"], ["prune.ratio", "got 0"]),
        (["compress", "first", "--method", "prune", "prune.ratio=1"], ["prune.ratio", "got 1"]),
        (["compress", "first", "--method", "prune", "prune.ratio=-1"], ["prune.ratio", "got -1"]),
        (["compress", "first", "--method", "prune", "model.hidden=[8]"], ["model.hidden", "(was [32], is [8])"]),
        (["compress", "first", "--method", "distill", "distill.student.hidden=[64]"], ["student", "at most"]),
        (["compress", "first", "--recipe", "nope.yaml"], ["nope.yaml"]),
        (["compress", "first", "--method", "ptq", "--id", "first"], ["--id", "tiny/first is the run to be compressed"]),
        (["train", "tiny.yaml", "--id", "first", "run.seed=3"], ["run.seed (was 0, is 3)", "--id"]),
        (["train", "tiny.yaml", "--id", "first", "trainer.epochs=2"], ["trainer.epochs (was 1, is 2)"]),
        (["train", "--resume", "first", "trainer.epochs=2", "--json"], ["trainer.epochs (was 1, is 2)"]),
        (["export", "first", "--output", "."], ["folder"]),
        (["export", "first", "--output", "tiny.yaml"], ["exists", "--force"]),
        (["export", "first", "--output", "tiny.yaml/x.ts"], ["not a folder"]),
        (["export", "first", "--output", "/proc/x.ts"], ["cannot be written"]),
        (["export", "nope"], ["no run 'nope'", "tiny/first (train, complete)"]),
        (["evaluate", "runs"], ["runs"]),
    ],
)
def test_mistakes_with_a_run(chained: Any, call: Call, arguments: list[str], words: list[str]) -> None:
    before = tree(chained.folder)
    refused(call(chained.folder, *arguments), *words)
    assert tree(chained.folder) == before


def test_an_id_of_another_kind(chained: Any, call: Call) -> None:
    name = Path(chained.compressed).name
    refused(call(chained.folder, "train", "tiny.yaml", "--id", name), "compress run", "run.id")
    refused(call(chained.folder, "compress", name), "compress run")


def test_another_recipe_under_the_same_id(chained: Any, call: Call) -> None:
    name = Path(chained.compressed).name
    done = call(chained.folder, "compress", "first", "prune.ratio=0.25", "--id", name)
    refused(done, "compress.stages.1.ratio (was 0.5, is 0.25)", "--id")


def test_a_complete_run_with_a_changed_file(workplace: Any, call: Call) -> None:
    (workplace.folder / workplace.artifact).write_bytes(b"x")
    refused(call(workplace.folder, "compress", "first"), "exports/model.ts")


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_runs_of_another_schema_version_and_damaged_ones(workplace: Any, call: Call) -> None:
    first = workplace.folder / "runs/tiny/first/manifest.json"
    change(first, schema_version=9)
    for arguments in (["compress", "first"], ["evaluate", "runs/tiny/first"], ["report", "runs/tiny/first"]):
        refused(call(workplace.folder, *arguments), "schema version 9", "reads 1")
    refused(call(workplace.folder, "train", "tiny.yaml", "--id", "first"), "schema version 9")
    first.write_text("{")
    refused(call(workplace.folder, "lineage", "runs/tiny/first"), "damaged")
    listed = call(workplace.folder, "runs", "--json")
    assert [run["kind"] for run in json.loads(listed.out)] == ["compress"]
    assert "skipped" in listed.err


def test_a_model_that_was_changed(workplace: Any, call: Call) -> None:
    weights = workplace.folder / "runs/tiny/first/model/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    for arguments in (["evaluate", "first"], ["export", "first"], ["compress", "first", "--method", "ptq"]):
        refused(call(workplace.folder, *arguments), "weights.safetensors")


def test_data_that_changed_since_the_training(workplace: Any, call: Call) -> None:
    change(workplace.folder / "runs/tiny/first/manifest.json", data_fingerprint="0" * 64)
    for arguments in (["evaluate", "first"], ["compress", "first", "--method", "ptq"]):
        refused(call(workplace.folder, *arguments), "data.source", "instead of 000000000000")


def test_a_file_of_unknown_origin_needs_trust(workplace: Any, call: Call) -> None:
    copy = workplace.folder / "copy.ts"
    copy.write_bytes((workplace.folder / workplace.artifact).read_bytes())
    for verb in ("verify", "evaluate", "bench"):
        refused(call(workplace.folder, verb, "copy.ts"), "unknown origin", "--trust")
    assert call(workplace.folder, "verify", "copy.ts", "--trust").code == 0


@pytest.mark.parametrize("how", ["changed", "truncated"])
def test_a_file_that_was_tampered_with(workplace: Any, call: Call, how: str) -> None:
    path = workplace.folder / workplace.artifact
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data[:-100] if how == "truncated" else data)
    done = call(workplace.folder, "verify", workplace.artifact, "--json")
    assert done.code == 3
    assert json.loads(done.out)["ok"] is False
    assert ("cut short" in done.err) == (how == "truncated")
    refused(call(workplace.folder, "evaluate", workplace.artifact), "not the file that")


def test_a_failed_compression_leaves_a_report(workplace: Any, call: Call) -> None:
    """Nothing can be removed from 32 units in steps of 64; that is known in the stage only."""
    arguments = ("compress", "first", "--method", "prune", "prune.round_to=64", "--id", "bad", "--json")
    refused(call(workplace.folder, *arguments), "round_to=64")
    run = find_run("bad", workplace.folder / "runs", kinds=("compress",), status="failed")
    assert "nothing can be removed" in str(run.manifest.error)
    assert "nothing can be removed" in (run.path / "report.html").read_text()


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A long training, seen to train."""
    program = str(Path(sys.executable).with_name("scaledl"))
    process = subprocess.Popen(
        [program, "train", "tiny.yaml", "trainer.epochs=100000", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while not list(folder.glob("runs/tiny/*/checkpoints/*.ckpt")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no checkpoint in two minutes"
        time.sleep(0.1)
    return process


def test_ctrl_c_a_second_process_and_kill(empty: Path, call: Call) -> None:
    process = started(empty)
    [run] = (path for path in (empty / "runs/tiny").iterdir() if not path.is_symlink())
    again = call(empty, "train", "tiny.yaml", "trainer.epochs=100000", "--id", run.name)
    refused(again, "in use by process", str(process.pid))
    refused(call(empty, "evaluate", run.name), "running")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "checkpoint saved" in err
    assert "scaledl train tiny.yaml trainer.epochs=100000 --resume" in err
    assert json.loads(call(empty, "runs", "--json").out)[0]["status"] == "preempted"
    assert (run / "report.html").is_file()

    process = started(empty, "--resume")
    while json.loads((run / "manifest.json").read_text())["status"] != "running":
        time.sleep(0.1)
    process.kill()
    out, _ = process.communicate(timeout=60)
    assert f"resuming runs/tiny/{run.name}" in out
    assert "killed" in call(empty, "runs").out
    refused(call(empty, "compress", run.name, "--method", "ptq"), "killed")


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("trainer.sync_batchnorm=true", "trainer.sync_batchnorm: got true, but these ranks train on CPUs"),
        ("data.batch_size=1", "data.batch_size: got 1 for 2 ranks; allowed: at least 2"),
    ],
)
def test_what_two_ranks_cannot_do_is_said_once_and_leaves_no_run(empty: Path, override: str, text: str) -> None:
    done = run_command(empty, "train", "tiny.yaml", "trainer.devices=2", override)
    assert done.code == 2
    assert done.err.startswith(f"error: {text}")
    assert len(done.err.splitlines()) == 1
    assert not (empty / "runs").exists()
