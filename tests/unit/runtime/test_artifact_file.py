"""What may be found in place of an artifact: each is refused with its own reason, and none of it is run."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from scaledl.config.schema import Config, DataConfig, ExportConfig, MLPConfig
from scaledl.data import build_data
from scaledl.errors import UsageError
from scaledl.export import export_torchscript
from scaledl.models.structure import new_model
from scaledl.run import Run, sha256_file
from scaledl.runtime import load
from scaledl.runtime.artifact import HashMismatch, read_cases, read_spec, sidecar_path
from scaledl.runtime.outputs import OutputSpec

pytestmark = pytest.mark.unit

OUTPUT = OutputSpec("class", "vector", (10,)).to_dict()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    data = build_data(DataConfig(), 0)
    model = new_model(MLPConfig(family="mlp", hidden=[4]), data.spec.in_shape, 10, 0)
    path = tmp_path_factory.mktemp("exported") / "model.ts"
    export_torchscript(model, data, path, config=ExportConfig(), source={"name": "n", "id": "i", "sha256": "s"})
    return path.read_bytes()


@pytest.fixture
def artifact(exported: bytes, tmp_path: Path) -> Path:
    """A file with its sidecar."""
    path = tmp_path / "model.ts"
    path.write_bytes(exported)
    sidecar_path(path).write_text(json.dumps({"sha256": sha256_file(path), "size": len(exported)}))
    return path


def with_extra(data: bytes, name: str, change: Callable[[bytes], bytes | None]) -> bytes:
    """The archive with one extra file changed, or left out where `change` gives None."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(target, "w") as copy:
        for info in source.infolist():
            content: bytes | None = source.read(info)
            if info.filename.endswith(f"extra/{name}"):
                content = change(content or b"")
            if content is not None:
                copy.writestr(info.filename, content)
    return target.getvalue()


def with_manifest(data: bytes, **changes: Any) -> bytes:
    return with_extra(data, "scaledl.json", lambda old: json.dumps({**json.loads(old), **changes}).encode())


def a_zip(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "content")
    return buffer.getvalue()


def foreign_torchscript() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b"just text\n", "not a TorchScript file"),
        (b"\x80\x04\x95pickle", "not a TorchScript file"),
        (b"PK\x03\x04 and then nothing", "cut short or damaged"),
        (a_zip("a.txt"), "a zip archive, but not a TorchScript file"),
        (a_zip("../../x/constants.pkl"), "not exported by scaledl"),
        (a_zip(), "a zip archive, but not a TorchScript file|not a TorchScript file|cut short"),
        (foreign_torchscript(), "not exported by scaledl"),
    ],
)
def test_not_an_artifact(content: bytes, reason: str, trust: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.ts"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=reason) as caught:
        load(path, trust=trust)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file; make one with"):
        load(tmp_path / "model.ts")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a folder, not a file"):
        load(tmp_path)


def test_the_recorded_file_loads_without_a_word(artifact: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load(artifact).labels) == 10


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.999])
def test_cut_short(artifact: Path, exported: bytes, keep: float) -> None:
    artifact.write_bytes(exported[: int(keep * len(exported))])
    with pytest.raises(HashMismatch, match=rf"cut short: [\d,]+ of {len(exported):,} bytes"):
        load(artifact)


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_changed_bit_anywhere(
    place: float, bit: int, exported: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("changed") / "model.ts"
    path.write_bytes(exported)
    sidecar_path(path).write_text(json.dumps({"sha256": sha256_file(path), "size": len(exported)}))
    changed = bytearray(exported)
    changed[int(place * len(changed))] ^= 1 << bit
    path.write_bytes(changed)
    for trust in (False, True):  # trust is for unknown files, never for changed ones
        with pytest.raises(HashMismatch, match=r"not the file that .*model\.ts\.json records"):
            load(path, trust=trust)


def test_unknown_origin_needs_trust(artifact: Path) -> None:
    sidecar_path(artifact).unlink()
    with pytest.raises(UsageError, match="--trust"):
        load(artifact)
    assert load(artifact, trust=True).predict(torch.zeros(1, 8, 8, 1, dtype=torch.uint8)).shape == (1, 10)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sha256": 5, "size": 1}', "[" * 100_000])
def test_damaged_sidecar(artifact: Path, content: str) -> None:
    sidecar_path(artifact).write_text(content)
    with pytest.raises(UsageError, match=r"model\.ts\.json: damaged"):
        load(artifact)


@pytest.fixture
def in_run(exported: bytes, tmp_path: Path) -> Path:
    """A file that only the manifest of its run knows."""
    run = Run.create(tmp_path / "runs", "name", "id", config=Config())
    run.exports.mkdir(parents=True, exist_ok=True)
    path = run.exports / "model.ts"
    path.write_bytes(exported)
    run.record("exports/model.ts")
    return path


def test_the_manifest_of_a_run_knows_its_files(in_run: Path) -> None:
    assert load(in_run).manifest["source"]["name"] == "n"


def test_a_sidecar_made_to_fit_does_not_help_against_the_manifest(in_run: Path, exported: bytes) -> None:
    in_run.write_bytes(with_manifest(exported, labels=[str(i) for i in range(9, -1, -1)]))
    size = in_run.stat().st_size
    sidecar_path(in_run).write_text(json.dumps({"sha256": sha256_file(in_run), "size": size}))
    with pytest.raises(HashMismatch, match=r"manifest\.json records"):
        load(in_run)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema_version": 99}, "schema version 99, this scaledl reads 3"),
        ({"schema_version": None}, "schema version None"),
        ({"labels": 5}, "damaged"),
        ({"labels": []}, "do not fit together"),
        ({"input": {}}, "damaged .KeyError"),
        ({"output": {}}, "damaged .KeyError"),
        ({"output": {**OUTPUT, "kind": "guess"}}, "damaged .ValueError"),
        ({"output": {**OUTPUT, "shape": [9]}}, "do not fit together"),
        ({"output": {**OUTPUT, "shape": []}}, "damaged .ValueError"),
        ({"output": {**OUTPUT, "mean": [1.0], "std": [1.0]}}, "damaged .ValueError"),
        ({"output": {**OUTPUT, "mean": [1.0] * 10, "std": [0.0] * 10}}, "damaged .ValueError"),
        ({"output": {**OUTPUT, "mean": [float("nan")] * 10, "std": [1.0] * 10}}, "damaged .ValueError"),
        ({"output": {**OUTPUT, "threshold": 1.0}}, "damaged .ValueError"),
        ({"input": {"shape": [1, 8], "layout": "NCHW"}}, "do not fit together"),
        ({"input": {"shape": [], "layout": "NF"}}, "do not fit together"),
        ({"input": {"shape": [1e400], "layout": "NF"}}, "damaged"),
        ({"input": {"shape": [0, 8, 8], "layout": "NCHW"}}, "do not fit together"),
        ({"preprocessing": {"mean": [0.1, 0.2], "std": [1.0]}}, "do not fit together"),
        ({"preprocessing": {"mean": [0.1], "std": [0.0]}}, "do not fit together"),
        ({"preprocessing": {"mean": [float("nan")], "std": [1.0]}}, "do not fit together"),
        ({"int8": {}, "preprocessing": None}, "damaged"),
        ({"int8": {"engine": "abacus"}}, "int8 engine 'abacus' is not available on this machine, which has: "),
    ],
)
def test_manifest_that_does_not_fit(exported: bytes, tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = tmp_path / "model.ts"
    path.write_bytes(with_manifest(exported, **changes))
    with pytest.raises(UsageError, match=reason):
        load(path, trust=True)


def test_manifest_of_absurd_size(exported: bytes) -> None:
    with pytest.raises(UsageError, match=r"scaledl\.json is [\d,]+ bytes, more than the [\d,]+ allowed"):
        read_spec(with_extra(exported, "scaledl.json", lambda _: b" " * 17_000_000), Path("x.ts"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 74) + b'{"inputs":{"dtype":"U8","shape":[1,8,8,1],"data_offsets":[0,9999999999]}}   '[:74],
        None,
    ],
)
def test_damaged_test_cases(exported: bytes, content: bytes | None) -> None:
    with pytest.raises(UsageError, match=r"test cases are damaged|without cases\.safetensors"):
        read_cases(with_extra(exported, "cases.safetensors", lambda _: content), Path("x.ts"))
