"""Model -> TorchScript file that says by itself what it needs: labels, preprocessing, test cases, origin."""

from __future__ import annotations

import copy
import json
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.module import _jit_is_scripting
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

import scaledl
from scaledl.config.schema import ExportConfig, TaskConfig
from scaledl.console import get_console
from scaledl.data import Arrays, DataModule, DataSpec
from scaledl.errors import ScaledlError, UsageError
from scaledl.export.artifact import Artifact, write_artifact
from scaledl.export.reference import outputs_of
from scaledl.models import huggingface
from scaledl.models.external import library_of
from scaledl.models.quantized import convert, engine_of
from scaledl.models.structure import EXTERNAL, Model, Structure
from scaledl.runtime import jit
from scaledl.runtime.artifact import (
    CASES_FILE,
    LAYOUTS,
    MANIFEST_FILE,
    SCHEMA_VERSION,
    TOKENIZER_FILE,
    InputSpec,
)
from scaledl.runtime.outputs import OutputSpec
from scaledl.tasks.own import settings_of, task_class

NUM_CASES = 8
MOST_OUTPUTS = 1 << 18  # numbers that cases hold, where one is not more already: a file is a model first
_LAYOUTS = {kind: layout for layout, kind in LAYOUTS.items()}
CLASSIFICATION = TaskConfig()


def export_torchscript(
    model: Model,
    data: DataModule,
    path: Path,
    *,
    config: ExportConfig,
    source: dict[str, Any],
    task: TaskConfig = CLASSIFICATION,
) -> Artifact:
    """Script, freeze (BatchNorm folded into convolutions) and save `model`, with all that using the file needs.

    A quantized model is converted to true int8 first. Convolution weights of a float model are stored channels_last,
    which made ResNets of width 16 a fifth quicker at batch size 1. `optimize_for_inference` is left out: at that size
    it ran from 7 % quicker (ResNet-20, width 16) to 35 % slower (ResNet-8, width 8), and what it makes cannot be loaded
    again.

    Args:
        model: float or prepared (fake-quantized); left as it is.
        data: gives labels, input shape, preprocessing and the embedded test cases.
        path: the file to write, atomically, with its sidecar `<path>.json`.
        source: what the file comes from: name, id and sha256 of the run.
        task: says what the outputs mean.

    Raises:
        UsageError: the model does not fit the data, or was quantized for another engine.
        ScaledlError: the model cannot be scripted, or its outputs are not finite.
    """
    output = _output(model.structure, data.spec, task)
    engine = _int8_engine(model.structure, config.engine)
    module = _float_module(model.module) if engine is None else convert(model)
    inputs = data.spec.inputs
    spec = InputSpec(
        inputs.shape, data.spec.mean, data.spec.std, inputs.kind, inputs.vocabulary, categories=inputs.categories
    )
    cases = _cases(module, data.test, spec)
    with jit.quantized_engine(engine):
        with _scriptable(module, model.structure):
            script, traced = _script(module, model.structure)
        manifest = _manifest(data.spec, output, engine, source) | ({"traced": True} if traced else {})
        extra = {MANIFEST_FILE: json.dumps(manifest).encode(), CASES_FILE: save_safetensors(cases)}
        if inputs.kind == "text":
            extra[TOKENIZER_FILE] = data.spec.tokenizer.encode()
        return write_artifact(path, jit.save_bytes(script, extra), engine, source)


def _output(structure: Structure, spec: DataSpec, config: TaskConfig) -> OutputSpec:
    """What the model's outputs mean, where it was made for such data and such a task."""
    task = task_class(config.name)
    config = settings_of(task, config)
    if spec.target not in task.targets:
        raise UsageError(f"task.name: got {config.name}; the data has targets of the kind {spec.target!r}")
    output, given = task.output_spec(spec, config), structure.outputs.shape(structure.inputs)
    if structure.inputs.shape != spec.in_shape or given != output.shape:
        what = "classes" if output.kind == "class" else "as outputs"
        gives, wanted = (shape[0] if len(shape) == 1 else list(shape) for shape in (given, output.shape))
        raise UsageError(
            f"the model takes {list(structure.inputs.shape)} and gives {gives} {what}; the data has "
            f"{list(spec.in_shape)} and {wanted}: export with the data that it was trained on"
        )
    return output


def _int8_engine(structure: Structure, wanted: str) -> str | None:
    """The engine of the file; None for a float model. Ranges made for x86 (0..127) are safe on each engine."""
    prepared = engine_of(structure)
    if prepared is None or prepared == wanted or prepared == "x86":
        return wanted if prepared else None
    raise UsageError(
        f"export.engine: got {wanted!r}, but the model was quantized for {prepared!r}, whose wider ranges can overflow "
        f"there; give export.engine={prepared}, or quantize again for {wanted!r}"
    )


def _float_module(module: nn.Module) -> nn.Module:
    copied: nn.Module = copy.deepcopy(module).cpu().float().eval()
    return copied.to(memory_format=torch.channels_last)


def _cases(module: nn.Module, test: Arrays, spec: InputSpec) -> dict[str, Tensor]:
    """A few test inputs, spread over the split, raw, with their targets and the module's outputs."""
    count = min(NUM_CASES, len(test), max(1, MOST_OUTPUTS // max(1, outputs_of(module, test.inputs[:1], spec).numel())))
    index = torch.linspace(0, len(test) - 1, count).long()
    chosen = test.take(index)
    outputs = outputs_of(module, chosen.inputs, spec)
    if not bool(outputs.isfinite().all()):
        raise ScaledlError("the model's outputs are NaN or infinite on test inputs; it is not exported. Train it again")
    return {"inputs": chosen.inputs.contiguous(), "labels": chosen.labels, "outputs": outputs.contiguous()}


def _manifest(spec: DataSpec, output: OutputSpec, engine: str | None, source: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "format": "torchscript",
        "labels": list(spec.labels),
        "input": _input(spec),
        "preprocessing": {**_preprocessing(spec), "mean": list(spec.mean), "std": list(spec.std)},
        "output": output.to_dict(),
        "int8": {"engine": engine} if engine else None,
        "data": {"source": spec.source, "fingerprint": spec.fingerprint},
        "source": source,
        "versions": {
            "scaledl": scaledl.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _input(spec: DataSpec) -> dict[str, Any]:
    """One batch, as the module takes it."""
    what = {"layout": _LAYOUTS[spec.modality], "shape": list(spec.in_shape)}
    if spec.modality == "text":
        return {"dtype": "int64", **what, "vocabulary": spec.vocabulary}
    return {"dtype": "float32", **what, **({"categories": list(spec.categories)} if spec.categories else {})}


def _preprocessing(spec: DataSpec) -> dict[str, Any]:
    """How raw values become inputs."""
    if spec.modality == "text":
        raw = {"dtype": "text", "layout": "N"}
        return {"from": raw, "formula": "ids of the tokens, 0 behind them", "tokenizer": TOKENIZER_FILE}
    if spec.modality == "image":
        return {"from": {"dtype": "uint8", "layout": "NHWC"}, "formula": "(x / 255 - mean) / std", "scale": 1 / 255}
    raw = {"dtype": "float32", "layout": _LAYOUTS[spec.modality]}
    columns = {"columns": [column.to_dict() for column in spec.columns]} if spec.columns else {}
    return {"from": raw, "formula": "(x - mean) / std", "scale": 1.0, **columns}


@contextmanager
def _scriptable(module: nn.Module, structure: Structure) -> Iterator[None]:
    """What other libraries' modules need, or say too much about, while they are compiled."""
    with ExitStack() as stack:
        if structure.family == EXTERNAL and library_of(structure.config["name"]) == "hf":
            stack.enter_context(huggingface.quiet())
        if any(isinstance(part, pl.LightningModule) for part in module.modules()):
            stack.enter_context(_jit_is_scripting())  # else they want their trainer
        yield


def _script(module: nn.Module, structure: Structure) -> tuple[torch.jit.ScriptModule, bool]:
    """The compiled module, and whether it is only a trace.

    A trace freezes one path of the model: that is done for models of other libraries alone, and never without a word.
    """
    example = structure.inputs.example(2)
    try:
        script = jit.script_and_freeze(module)
        with torch.inference_mode():
            if not isinstance(found := script(example), Tensor):
                raise TypeError(f"compiled, it gives a {type(found).__name__} and not a tensor")
        return script, False
    except jit.SCRIPT_ERRORS as error:
        reason = " ".join(line.strip() for line in str(error).strip().splitlines()[:3])[:300]
        if structure.family != EXTERNAL:
            raise ScaledlError(
                f"the {structure.family} model cannot be exported to TorchScript: {reason}. Its forward may use only "
                "what torch.jit.script can express, and its source must stand in a file"
            ) from error
    get_console().warn_once(
        f"{structure.config['name']} cannot be compiled ({reason}): the file holds a TRACE of one forward pass, in "
        "which whatever depends on values is fixed. Its verification runs other inputs and batch sizes"
    )
    try:
        return jit.trace_and_freeze(module, example), True
    except jit.SCRIPT_ERRORS as error:
        raise ScaledlError(f"{structure.config['name']} can be neither compiled nor traced: {error}") from error
