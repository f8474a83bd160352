"""The manifest is complete, survives its round trip, and is read strictly."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaledl.config import Config
from scaledl.errors import UsageError
from scaledl.run import SCHEMA_VERSION, Manifest, Run
from scaledl.run.manifest import read_manifest, write_manifest

pytestmark = pytest.mark.unit


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "runs", "digits", "one", config=Config())


def damage(run: Run, **changes: Any) -> None:
    path = run.path / "manifest.json"
    value = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: item for key, item in value.items() if item is not ...}))


def test_a_new_manifest_holds_what_the_design_lists(run: Run) -> None:
    manifest = run.manifest
    assert (manifest.schema_version, manifest.status, manifest.attempts) == (SCHEMA_VERSION, "running", 0)
    assert manifest.config == Config().model_dump(mode="json")
    assert {"python", "torch", "scaledl", "pytorch-lightning"} <= manifest.versions.keys()
    assert manifest.hardware["cpus"] >= 1
    assert manifest.hardware["memory_bytes"] > 2**20
    assert set(json.loads((run.path / "manifest.json").read_text())) == {field.name for field in fields(Manifest)}


def test_world_size_comes_from_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, expected in (("4", 4), ("", 1), ("many", 1), ("0", 1)):
        monkeypatch.setenv("WORLD_SIZE", text)
        assert Run.create(tmp_path, "x", config=Config()).manifest.world_size == expected


@given(
    metrics=st.dictionaries(st.text(max_size=8), st.floats(allow_nan=False), max_size=4),
    error=st.none() | st.text(max_size=20),
)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, metrics: dict[str, float], error: str | None) -> None:
    directory = tmp_path_factory.getbasetemp() / "round_trip"
    if not directory.exists():
        Run.create(directory.parent, directory.name, "base", config=Config())
    base = read_manifest(directory / "base")
    written = replace(base, metrics=metrics, error=error)
    write_manifest(directory / "base", written)
    assert read_manifest(directory / "base") == written


def test_a_metric_that_is_not_a_number_survives(run: Run) -> None:
    run.finish("failed", loss=float("nan"), worst=float("-inf"))
    assert str(run.manifest.metrics["loss"]) == "nan"
    assert run.manifest.metrics["worst"] == float("-inf")
    json.loads((run.path / "manifest.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("version", [7, 0, None, "1", True])
def test_another_schema_version_is_refused_by_number(run: Run, version: object) -> None:
    damage(run, schema_version=version)
    with pytest.raises(UsageError, match=rf"schema version {version!r}, this scaledl reads 1"):
        Run.open(run.path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"status": ...}, "'status' is missing"),
        ({"surprise": 1}, "'surprise' is unknown"),
        ({"attempts": "many"}, "'attempts' has a value of the wrong type"),
        ({"attempts": True}, "'attempts' has a value of the wrong type"),
        ({"kind": "cake"}, "kind is 'cake'"),
        ({"status": "done"}, "status is 'done'"),
        ({"parents": [{"name": "x"}]}, "damaged"),
        ({"parents": [3]}, "damaged"),
        ({"metrics": {"a": "x"}}, "damaged"),
        ({"created": "yesterday"}, "damaged"),
        ({"files": {"../../secret": "0"}}, "not inside the run"),
        ({"files": {"/etc/passwd": "0"}}, "not inside the run"),
    ],
)
def test_damaged_values_are_named(run: Run, changes: dict[str, Any], words: str) -> None:
    damage(run, **changes)
    with pytest.raises(UsageError, match=words):
        Run.open(run.path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"schema_version": 1'])
def test_damaged_json_is_one_clear_error(run: Run, content: bytes) -> None:
    (run.path / "manifest.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"manifest\.json is damaged|schema version"):
        Run.open(run.path)


def test_what_is_not_a_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path, words in (
        (tmp_path, "has no manifest"),
        (tmp_path / "no", "no such folder"),
        (tmp_path / "file", "not a run"),
    ):
        with pytest.raises(UsageError, match=words):
            Run.open(path)
