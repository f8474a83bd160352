"""A tiny chain, end to end, and every verb on what it leaves."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.beside]

Call = Callable[..., Any]


def document(done: Any, code: int = 0) -> Any:
    """The one JSON document on standard output."""
    assert done.code == code, done.err
    return json.loads(done.out)


def test_chain_shows_a_table_and_where_everything_is(chained: Any) -> None:
    lines = chained.done.out.splitlines()
    start = max(i for i, line in enumerate(lines) if line.startswith("stage  "))
    assert [line.split("  ")[0] for line in lines[start + 2 : start + 7]] == [
        "start",
        "start (eager)",
        "stage 1 distill",
        "stage 2 prune",
        "stage 3 qat",
    ]
    artifact, report, heading, *commands = lines[-6:]
    assert artifact == f"artifact  {chained.artifact} (verified)"
    assert report == f"report    {chained.compressed}/report.html"
    assert heading == "try next:"
    assert [shlex.split(line)[1] for line in commands] == ["bench", "evaluate", "compress"]
    for path in (chained.artifact, f"{chained.compressed}/report.html", "runs/tiny/first/report.html"):
        assert (chained.folder / path).is_file()


def test_the_commands_to_try_next_work_as_they_stand(workplace: Any, call: Call) -> None:
    for line in workplace.done.out.splitlines()[-3:]:
        _, *arguments = shlex.split(line)
        done = call(workplace.folder, *arguments)
        assert done.code == 0, done.err
    [ptq] = (workplace.folder / "runs" / "tiny").glob("first-ptq-*")
    assert document(call(workplace.folder, "verify", f"{ptq}/exports/model.ts", "--json"))["int8_kernels"] > 0


def test_the_same_command_again_finds_everything_done(chained: Any, call: Call) -> None:
    done = call(chained.folder, "chain", "tiny.yaml", "--id", "first", "--json")
    found = document(done)
    assert done.err.count("already complete") == 2
    assert (found["path"], found["kind"], found["status"]) == (chained.compressed, "compress", "complete")
    assert found["artifact"] == chained.artifact
    assert [stage["name"] for stage in found["stages"]][2:] == ["stage 1 distill", "stage 2 prune", "stage 3 qat"]


def test_compress_takes_the_chain_up_where_it_stands(chained: Any, call: Call) -> None:
    done = call(chained.folder, "compress", "first", "--json")
    assert document(done)["path"] == str(chained.compressed)
    assert "already complete" in done.err


def test_the_run_that_is_taken_is_named(chained: Any, call: Call) -> None:
    """The newest complete training, never the compressed result that is newer."""
    for verb in (["compress"], ["evaluate"], ["lineage"], ["report"]):
        done = call(chained.folder, *verb, "--json")
        assert done.code == 0, done.err
        assert "taking the newest complete training run, runs/tiny/first\n" in done.err
        json.loads(done.out)


def test_runs_lists_runs_and_no_stages(chained: Any, call: Call) -> None:
    found = document(call(chained.folder, "runs", "--json"))
    assert [run["kind"] for run in found] == ["compress", "train"]
    text = call(chained.folder, "runs").out
    assert text.splitlines()[0].split() == ["run", "kind", "status", "test", "accuracy", "age", "parent"]
    assert "stages/" not in text
    assert text.splitlines()[2].endswith("tiny/first")
    accuracy = found[0]["metrics"]["test_accuracy"]
    assert f"{100 * accuracy:.2f} %" in text.splitlines()[2]


def test_lineage_leads_from_the_training_to_the_result(chained: Any, call: Call) -> None:
    found = document(call(chained.folder, "lineage", chained.compressed, "--json"))
    assert [(entry["depth"], entry["kind"]) for entry in found] == [(0, "train"), (1, "compress")]
    line = call(chained.folder, "lineage", chained.compressed).out.splitlines()[1]
    assert line.startswith("  tiny/first-distill-prune-qat-")
    assert line.endswith("<- this run")


def test_evaluate_agrees_with_what_was_recorded(chained: Any, call: Call) -> None:
    recorded = document(call(chained.folder, "runs", "--json"))[0]["metrics"]["test_accuracy"]
    of_file = document(call(chained.folder, "evaluate", chained.artifact, "--json"))
    assert of_file["accuracy"] == pytest.approx(recorded, abs=1e-9)
    assert of_file["count"] == sum(map(sum, of_file["confusion"]))
    text = call(chained.folder, "evaluate", chained.artifact).out
    assert f"test accuracy {100 * recorded:.2f} %" in text.splitlines()[0]
    assert len(text.splitlines()) == 1 + 2 + 10


def test_evaluate_a_file_far_from_its_run(chained: Any, call: Call, tmp_path: Path) -> None:
    for name in ("model.ts", "model.ts.json"):
        shutil.copy(chained.folder / chained.compressed / "exports" / name, tmp_path)
    moved = document(call(tmp_path, "evaluate", "model.ts", "--json"))
    there = document(call(chained.folder, "evaluate", chained.artifact, "--json"))
    assert moved["confusion"] == there["confusion"]


def test_evaluate_on_the_validation_split(chained: Any, call: Call) -> None:
    found = document(call(chained.folder, "evaluate", "first", "--split", "val", "--json"))
    assert found["split"] == "val"
    assert found["count"] != document(call(chained.folder, "evaluate", "first", "--json"))["count"]


def test_bench_compares_runs_and_files(chained: Any, call: Call) -> None:
    arguments = ("bench", "first", chained.artifact, "--rounds", "3", "--batch-sizes", "1,8")
    rows = document(call(chained.folder, *arguments, "--json"))
    assert [row["batch_size"] for row in rows] == [1, 1, 8, 8]
    assert all(0 < row["minimum_ms"] <= row["p50_ms"] <= row["p95_ms"] for row in rows)
    assert {type(row["noisy"]) for row in rows} == {bool}
    assert rows[0]["faster"] is None
    assert rows[1]["faster"]["value"] > 0
    assert "tiny/first (eager fp32)" in call(chained.folder, *arguments).out


@pytest.mark.parametrize("name", ["model.ts", "start.ts"])
def test_verify_holds_each_file_against_its_own_source(workplace: Any, call: Call, name: str) -> None:
    found = document(call(workplace.folder, "verify", f"{workplace.compressed}/exports/{name}", "--json"))
    assert found["ok"]
    assert "source model" in [check["name"] for check in found["checks"]]


def test_verify_in_plain_text(workplace: Any, call: Call) -> None:
    done = call(workplace.folder, "verify", workplace.artifact)
    assert done.out.splitlines()[-1] == f"{workplace.artifact}: verified"


def test_export_writes_where_it_is_told(workplace: Any, call: Call) -> None:
    name = "a b;$(touch x)\nc.ts"
    found = document(call(workplace.folder, "export", "first", "--output", name, "--json"))
    assert found["ok"]
    assert (workplace.folder / name).is_file()
    assert not (workplace.folder / "x").exists()
    assert call(workplace.folder, "export", "first", "--output", name).code == 2
    assert call(workplace.folder, "export", "first", "--output", name, "--force").code == 0


def test_report_of_a_compressed_run(workplace: Any, call: Call) -> None:
    page = workplace.folder / workplace.compressed / "report.html"
    page.unlink()
    found = document(call(workplace.folder, "report", workplace.compressed, "--json"))
    assert found["report"] == f"{workplace.compressed}/report.html"
    assert "stage 3 qat" in page.read_text()


def test_quiet_leaves_the_result_only(empty: Path, call: Call) -> None:
    done = call(empty, "train", "tiny.yaml", "--id", "q", "--quiet")
    assert done.code == 0, done.err
    assert done.err == ""
    words = [line.split()[0] for line in done.out.splitlines()]
    assert words == ["test", "run", "report", "try", "scaledl"]


def test_a_result_in_json_is_alone_on_standard_output(empty: Path, call: Call) -> None:
    done = call(empty, "train", "tiny.yaml", "--json")
    assert document(done)["status"] == "complete"
    assert "epoch 1/1" in done.err


def test_verify_gives_its_verdict_on_a_read_only_disk(
    chained: Any, call: Call, tmpfs: Callable[[str], Path], remount: Callable[[Path, str], None]
) -> None:
    disk = tmpfs("20m")
    for suffix in ("", ".json"):
        shutil.copy(chained.folder / f"{chained.artifact}{suffix}", disk / f"model.ts{suffix}")
    remount(disk, "ro")
    done = call(chained.folder, "verify", str(disk / "model.ts"))
    assert done.code == 0, done.err
    assert "model.ts: verified" in done.out
    assert "warning: the verification is not kept beside the file" in done.err
