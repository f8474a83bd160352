"""Verification for real: each case starts the clean process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from scaledl.config.schema import Config, DataConfig, ExportConfig, MLPConfig, ResNetConfig
from scaledl.data import DataModule, build_data, normalize
from scaledl.errors import UsageError, VerdictError
from scaledl.evaluate import evaluate_split
from scaledl.export import Verification, clean_process, export_and_verify, export_torchscript, verify
from scaledl.models.quantized import calibrating, convert, prepare_ptq
from scaledl.models.structure import Model, new_model
from scaledl.run import Run, sha256_file
from scaledl.runtime import jit, load
from scaledl.runtime.artifact import read_cases, read_spec, sidecar_path

pytestmark = pytest.mark.integration

SOURCE = {"name": "n", "id": "i", "sha256": "s"}
CONFIG = ExportConfig(latency_batch_sizes=[1, 4])


@pytest.fixture(scope="module")
def data() -> DataModule:
    return build_data(DataConfig(), 0)


@pytest.fixture(scope="module")
def model(data: DataModule) -> Model:
    """A ResNet-8 after a few steps: random weights would give classes too close to call."""
    torch.set_num_threads(1)
    made = new_model(ResNetConfig(family="resnet", depth=8, width=8), data.spec.in_shape, 10, 0)
    x, y = normalize(data.train.inputs, data.spec), data.train.labels
    optimizer = torch.optim.AdamW(made.module.parameters(), lr=1e-2)
    made.module.train()
    for step in range(36):
        rows = slice(step % 12 * 120, step % 12 * 120 + 120)
        optimizer.zero_grad()
        F.cross_entropy(made.module(x[rows]), y[rows]).backward()
        optimizer.step()
    made.module.eval()
    return made


@pytest.fixture(scope="module")
def quantized(model: Model, data: DataModule) -> Model:
    prepared = prepare_ptq(model, "x86")
    with calibrating(prepared.module), torch.no_grad():
        prepared.module(normalize(data.train.inputs[:512], data.spec))
    return prepared


@pytest.fixture(scope="module")
def other(data: DataModule) -> Model:
    return new_model(ResNetConfig(family="resnet", depth=8, width=8), data.spec.in_shape, 10, 1)


def exported(model: Model, data: DataModule, folder: Path) -> Path:
    return export_torchscript(model, data, folder / "model.ts", config=CONFIG, source=SOURCE).path


def failures(verification: Verification) -> list[str]:
    return [check.name for check in verification.checks if not check.ok]


def details(verification: Verification) -> dict[str, str]:
    return {check.name: check.detail for check in verification.checks}


def test_float_model(model: Model, data: DataModule, tmp_path: Path) -> None:
    artifact, verification = export_and_verify(model, data, tmp_path / "model.ts", config=CONFIG, source=SOURCE)

    assert failures(verification) == []
    assert verification.max_error is not None
    assert verification.max_error < 1e-4
    assert verification.agreement == 1.0
    expected = evaluate_split(model.module, data, Config(), "test")
    assert verification.accuracy == pytest.approx(expected.accuracy, abs=1e-9)
    assert expected.accuracy > 0.7
    assert (verification.int8_kernels, verification.float_kernels) == (0, 10)  # 9 convolutions, 1 linear layer
    assert verification.size == artifact.size == artifact.path.stat().st_size
    assert set(verification.latency) == {1, 4}
    assert all(0 < v["minimum_ms"] <= v["p50_ms"] <= v["p95_ms"] for v in verification.latency.values())

    sidecar = json.loads(sidecar_path(artifact.path).read_text())
    assert sidecar["sha256"] == artifact.sha256 == sha256_file(artifact.path)
    assert sidecar["verification"]["ok"] is True
    assert sidecar["verification"]["accuracy"] == verification.accuracy
    assert str(tmp_path) not in json.dumps(sidecar)  # it moves with the file
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.ts", "model.ts.json"]
    assert len(load(artifact.path).labels) == 10


def test_int8_model(quantized: Model, data: DataModule, tmp_path: Path) -> None:
    artifact, verification = export_and_verify(quantized, data, tmp_path / "model.ts", config=CONFIG, source=SOURCE)

    assert failures(verification) == []
    assert artifact.int8
    assert (verification.max_error, verification.agreement) == (0.0, 1.0)  # against the module converted here
    assert verification.float_kernels == 0
    assert verification.int8_kernels == 9 + 1 + 3  # convolutions, linear layer, additions
    assert verification.sqnr_db is not None
    assert verification.sqnr_db > 20
    expected = evaluate_split(convert(quantized), data, Config(), "test")
    assert verification.accuracy == pytest.approx(expected.accuracy, abs=1e-9)


def test_the_clean_process_is_clean(
    model: Model, data: DataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither PYTHONPATH nor the working directory reaches it: a sitecustomize there would import scaledl."""
    path = exported(model, data, tmp_path)
    (tmp_path / "sitecustomize.py").write_text("import scaledl")
    (tmp_path / "safetensors.py").write_text("raise RuntimeError('from the working directory')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    verification = verify(path, config=CONFIG)
    assert failures(verification) == []
    assert "without scaledl" in details(verification)["clean process"]
    assert (verification.accuracy, verification.agreement) == (None, 1.0)  # no test split at hand


def test_scaledl_in_the_process_is_noticed(
    model: Model, data: DataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "child.py"
    script.write_text("import scaledl\n" + clean_process.SCRIPT.read_text().replace("from __future__", "# "))
    monkeypatch.setattr(clean_process, "SCRIPT", script)
    assert failures(verify(exported(model, data, tmp_path), config=CONFIG)) == ["clean process"]


def test_another_model_than_the_source(model: Model, other: Model, data: DataModule, tmp_path: Path) -> None:
    verification = verify(exported(model, data, tmp_path), model=other, data=data, config=CONFIG)
    assert failures(verification) == ["source model"]
    assert json.loads(sidecar_path(verification.path).read_text())["verification"] is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[:-1], "cut short: "),
        (lambda data: data[: len(data) // 2] + b"\xff" + data[len(data) // 2 + 1 :], "recorded is "),
        (lambda data: b"", "cut short: 0 of "),
        (lambda data: b"x" * len(data), "recorded is "),
    ],
)
def test_a_changed_file_is_never_loaded(
    model: Model,
    data: DataModule,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[bytes], bytes],
    reason: str,
) -> None:
    path = exported(model, data, tmp_path)
    path.write_bytes(change(path.read_bytes()))
    marker = tmp_path / "a process was started"
    (tmp_path / "child.py").write_text(f"open({str(marker)!r}, 'w')")
    monkeypatch.setattr(clean_process, "SCRIPT", tmp_path / "child.py")
    verification = verify(path, config=CONFIG, trust=True)
    assert failures(verification) == ["hash"]
    assert not marker.exists()
    assert reason in verification.failures


def test_unknown_origin(model: Model, data: DataModule, tmp_path: Path) -> None:
    path = exported(model, data, tmp_path)
    sidecar_path(path).unlink()
    with pytest.raises(UsageError, match="--trust"):
        verify(path, config=CONFIG)
    verification = verify(path, trust=True, config=CONFIG)
    assert failures(verification) == []
    assert "trusted on request" in details(verification)["hash"]
    assert not sidecar_path(path).exists()  # trusting once makes it known to nobody


def rewritten(path: Path, **changes: Any) -> Path:
    """The same module with another manifest: what a dishonest file would be."""
    data = path.read_bytes()
    cases = read_cases(data, path)
    manifest = {**read_spec(data, path).manifest, **changes}
    tensors = save({"inputs": cases.inputs, "labels": cases.labels, "outputs": cases.outputs})
    extra = {"scaledl.json": json.dumps(manifest).encode(), "cases.safetensors": tensors}
    target = path.with_name("rewritten.ts")
    target.write_bytes(jit.save_bytes(jit.load_bytes(data), extra))
    return target


def test_a_float_file_that_calls_itself_int8(model: Model, data: DataModule, tmp_path: Path) -> None:
    path = rewritten(exported(model, data, tmp_path), int8={"engine": "x86"})
    verification = verify(path, trust=True, config=CONFIG)
    assert failures(verification) == ["executed kernels"]
    assert "int8: none; float: 9 aten::conv2d, 1 aten::linear" in verification.failures


def test_other_preprocessing_than_in_training(model: Model, data: DataModule, tmp_path: Path) -> None:
    steps = {"mean": [0.0], "std": [1.0]}
    path = rewritten(exported(model, data, tmp_path), preprocessing=steps)
    verification = verify(path, trust=True, model=model, data=data, config=CONFIG)
    assert failures(verification) == ["embedded cases", "preprocessing"]


class BatchDependent(nn.Module):
    """A mean over the batch that should have been one over the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1) - x.flatten(1).mean(0))


def test_a_failed_verification_publishes_nothing(data: DataModule, tmp_path: Path) -> None:
    structure = new_model(MLPConfig(family="mlp"), data.spec.in_shape, 10, 0).structure
    path = tmp_path / "model.ts"
    path.write_text("what stood there before")
    with pytest.raises(VerdictError, match=r"not published: .*batch sizes: 1, 3, 32; rows differ") as caught:
        export_and_verify(Model(BatchDependent().eval(), structure), data, path, config=CONFIG, source=SOURCE)
    assert caught.value.exit_code == 3
    assert path.read_text() == "what stood there before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "it crashed with SIGSEGV"),
        ("raise ValueError('no such operator')", "it failed: ValueError: no such operator"),
        ("import time; time.sleep(60)", "did not finish within 1 s and was ended"),
    ],
)
def test_a_process_that_fails(
    model: Model, data: DataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    path = exported(model, data, tmp_path)
    (tmp_path / "child.py").write_text(script)
    monkeypatch.setattr(clean_process, "SCRIPT", tmp_path / "child.py")
    verification = verify(path, config=CONFIG, timeout=1 if "sleep" in script else 60)
    assert failures(verification) == ["clean process"]
    assert reason in verification.failures


def test_in_a_run_the_manifest_follows(model: Model, data: DataModule, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "runs", "name", "id", config=Config(export=CONFIG))
    path = run.exports / "model.ts"
    artifact, _ = export_and_verify(model, data, path, config=CONFIG, source=SOURCE, run=run)
    assert run.manifest.files["exports/model.ts"] == artifact.sha256
    run.verify_files("exports")
    sidecar_path(path).write_text(json.dumps({**json.loads(sidecar_path(path).read_text()), "verification": None}))
    run.record("exports")
    verification = verify(path, run=run)
    assert failures(verification) == []
    assert "manifest.json" in details(verification)["hash"]
    assert json.loads(sidecar_path(path).read_text())["verification"]["ok"] is True
    run.verify_files("exports")  # the rewritten sidecar was recorded again
    assert sorted(file.name for file in run.exports.iterdir()) == ["model.ts", "model.ts.json"]


def test_a_folder_as_the_target(model: Model, data: DataModule, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a folder; give the name of the file"):
        export_and_verify(model, data, tmp_path, config=CONFIG, source=SOURCE)
