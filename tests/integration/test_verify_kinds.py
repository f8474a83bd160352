"""Verification of outputs that are no classes of an input: each passes, and each can fail."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scaledl.config import Config, replace
from scaledl.config.schema import ExportConfig, TaskConfig
from scaledl.data import Arrays, DataModule, DataSpec, normalize
from scaledl.data.arrays import statistics
from scaledl.data.datamodule import in_shape_of
from scaledl.errors import UsageError, VerdictError
from scaledl.evaluate import evaluate_split
from scaledl.export import export_and_verify, export_torchscript, verify
from scaledl.models.quantized import calibrating, prepare_ptq
from scaledl.models.structure import Model, Structure, build
from scaledl.runtime import jit, load
from scaledl.runtime.artifact import read_cases, read_spec, sidecar_path
from scaledl.runtime.signature import Inputs, Outputs
from scaledl.tasks.model import task_around

pytestmark = [pytest.mark.integration, pytest.mark.beside]

SOURCE = {"name": "n", "id": "i", "sha256": "s"}
EXPORT = ExportConfig(latency_batch_sizes=[1])


def dense(config: Any, inputs: Inputs, outputs: Outputs) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs.size, 24), nn.ReLU(), nn.Linear(24, outputs.count))


def conv(config: Any, inputs: Inputs, outputs: Outputs) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs.shape[0], 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, outputs.count, 1))


@pytest.fixture(autouse=True)
def _families(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("kind_families")
    vars(module).update(dense=dense, conv=conv)
    monkeypatch.setitem(sys.modules, "kind_families", module)
    torch.set_num_threads(1)


def made(inputs: Tensor, labels: Tensor, names: tuple[str, ...], target: Any, **more: Any) -> DataModule:
    parts = torch.arange(len(inputs)).split([len(inputs) - 80, 40, 40])
    splits = [Arrays(inputs[rows].contiguous(), labels[rows].contiguous(), rows) for rows in parts]
    spec = DataSpec("made-up", in_shape_of(inputs), names, *statistics(splits[0].inputs), "0", target=target, **more)
    return DataModule(spec, *splits)


def numbers() -> DataModule:
    x = torch.randn(400, 6, generator=torch.Generator().manual_seed(0)) * 3 + 1
    y = torch.stack([x[:, :3].sum(1), x[:, 3] * x[:, 4]], 1) * 100 + 2000
    mean, std = tuple(y.mean(0).tolist()), tuple(y.std(0).tolist())
    return made(x, y, ("sum", "product"), "numbers", target_mean=mean, target_std=std)


def labels() -> DataModule:
    x = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    return made(x, (x[:, :3] > 0).float(), ("a", "b", "c"), "classes")


def masks() -> DataModule:
    images = torch.randint(0, 256, (200, 6, 6, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mask = (images[..., 0] > 90).long() + (images[..., 0] > 170).long()
    mask[:, 0] = -100
    return made(images, mask, ("dark", "grey", "bright"), "mask")


KINDS: dict[str, tuple[Callable[[], DataModule], str, str, str]] = {
    "numbers": (numbers, "regression", "dense", "test RMSE"),
    "classes": (labels, "multilabel", "dense", "test accuracy"),
    "mask": (masks, "segmentation", "conv", "test accuracy"),
}


class Case:
    """A model after some steps of its task's own loss."""

    def __init__(self, kind: str) -> None:
        data_fn, name, family, self.figure = KINDS[kind]
        self.data, self.task = data_fn(), TaskConfig(name=name)
        self.config = replace(Config(), {"task.name": name, "export": EXPORT.model_dump()})
        from scaledl.config.registry import TASKS

        outputs = TASKS.resolve(name).outputs(self.data.spec, self.task)
        structure = Structure(f"kind_families:{family}", {}, self.data.spec.inputs, outputs)
        torch.manual_seed(0)
        self.model = Model(build(structure, trust=True), structure)
        task = task_around(self.model.module, self.config, self.data.spec).train()
        optimizer = torch.optim.AdamW(self.model.module.parameters(), lr=3e-2)
        for _ in range(6):
            for batch in self.data.train_loader(64, self.config.data.augment, 0):
                optimizer.zero_grad()
                task.step(batch)["loss"].backward()
                optimizer.step()
        self.model.module.eval()

    def quantized(self) -> Model:
        prepared = prepare_ptq(self.model, "x86")
        with calibrating(prepared.module), torch.no_grad():
            prepared.module(normalize(self.data.train.inputs, self.data.spec))
        return prepared

    def exported(self, folder: Path) -> Path:
        options: dict[str, Any] = {"config": EXPORT, "source": SOURCE, "task": self.task}
        return export_torchscript(self.model, self.data, folder / "m.ts", **options).path

    def published(self, model: Model, path: Path) -> Any:
        return export_and_verify(model, self.data, path, config=EXPORT, source=SOURCE, task=self.task)


def failures(verification: Any) -> list[str]:
    return [check.name for check in verification.checks if not check.ok]


@pytest.mark.parametrize(("kind", "int8"), [("numbers", False), ("numbers", True), ("classes", False), ("mask", True)])
def test_it_is_published_with_its_figure(kind: str, int8: bool, tmp_path: Path) -> None:
    case = Case(kind)
    model = case.quantized() if int8 else case.model
    artifact, verification = case.published(model, tmp_path / "model.ts")
    assert failures(verification) == []
    assert [check.name for check in verification.checks][-1] == case.figure
    assert (artifact.int8, verification.int8_kernels > 0) == (int8, int8)
    found = json.loads(sidecar_path(artifact.path).read_text())["verification"]
    assert (found["score"], found["metric"]) == (verification.score, verification.metric)
    predictor = load(artifact.path)
    evaluation = evaluate_split(predictor.forward, case.data, case.config, "test")
    if case.task.name == "regression":
        assert verification.agreement is None
        assert verification.metric == "rmse"
        given = predictor.predict(case.data.test.inputs)
        expected = (given - case.data.test.labels).double().square().mean()
        assert verification.score == pytest.approx(float(expected.sqrt()), rel=1e-4)
        assert evaluation.metrics["r2"] > 0.5
    else:
        assert verification.agreement == 1.0
        assert verification.accuracy == pytest.approx(evaluation.accuracy, abs=1e-6)
        assert verification.accuracy is not None
        assert verification.accuracy > 0.7


def test_another_model_of_the_same_shape_fails(tmp_path: Path) -> None:
    case = Case("numbers")
    path = case.exported(tmp_path)
    torch.manual_seed(1)
    other = Model(build(case.model.structure, trust=True).eval(), case.model.structure)
    verification = verify(path, model=other, data=case.data, config=EXPORT)
    assert failures(verification) == ["source model"]


def test_outputs_that_are_not_those_in_the_file_fail(tmp_path: Path) -> None:
    case = Case("numbers")
    path = case.exported(tmp_path)
    content = path.read_bytes()
    cases = read_cases(content, path)
    from safetensors.torch import save

    tensors = save({"inputs": cases.inputs, "labels": cases.labels, "outputs": cases.outputs + 0.01})
    extra = {"scaledl.json": json.dumps(read_spec(content, path).manifest).encode(), "cases.safetensors": tensors}
    target = tmp_path / "changed.ts"
    target.write_bytes(jit.save_bytes(jit.load_bytes(content), extra))
    assert failures(verify(target, trust=True, config=EXPORT)) == ["embedded cases"]


def test_a_quantized_model_that_lost_its_numbers_is_not_published(tmp_path: Path) -> None:
    case = Case("numbers")
    prepared = case.quantized()
    for module in prepared.module.modules():
        if hasattr(module, "scale") and module.scale.numel() == 1:
            module.scale.fill_(1.0)  # far too coarse for what comes through
    with torch.no_grad():
        for parameter in prepared.module.parameters():
            parameter.mul_(0.2)
    with pytest.raises(VerdictError, match="fake-quantized model: SQNR"):
        case.published(prepared, tmp_path / "model.ts")
    assert list(tmp_path.iterdir()) == []


def test_the_task_has_to_fit_the_data(tmp_path: Path) -> None:
    case = Case("numbers")
    with pytest.raises(UsageError, match=r"task\.name: got classification; the data has targets of the kind 'numbers'"):
        export_torchscript(case.model, case.data, tmp_path / "m.ts", config=EXPORT, source=SOURCE)
