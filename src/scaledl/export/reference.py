"""What the source model says: the outputs that an artifact is held against."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scaledl.data import DataModule, normalize
from scaledl.models.quantized import convert, is_quantized
from scaledl.models.structure import Model
from scaledl.runtime.artifact import InputSpec

CHUNK = 256


@dataclass(frozen=True, eq=False)
class Reference:
    """Outputs of the source model on the whole test split.

    Attributes:
        outputs: float32 [N, ...], of the float model, or of the int8 module that was converted in this process.
        fake_quantized: float32 [N, ...], of the fake-quantized model behind an int8 one; None for a float model.
        labels: the targets, [N, ...].
        class_names: in the order of the outputs.
        preprocessing_error: largest difference between the file's normalisation and the one used in training.
    """

    outputs: Tensor
    fake_quantized: Tensor | None
    labels: Tensor
    class_names: tuple[str, ...]
    preprocessing_error: float

    @property
    def int8(self) -> bool:
        """Whether the source model is quantized."""
        return self.fake_quantized is not None


def outputs_of(module: nn.Module, inputs: Tensor, spec: InputSpec) -> Tensor:
    """Outputs of an eager module in eval mode, on the CPU. inputs: raw, [N, ...] -> float32 [N, ...]."""
    with torch.inference_mode():
        parts = [module(spec.normalize(part)) for part in inputs.split(CHUNK)]
    return torch.cat(parts).clone()


def build_reference(model: Model, data: DataModule, spec: InputSpec) -> Reference:
    """Run the source model over the test split, through the preprocessing that the file carries."""
    module = copy.deepcopy(model.module).cpu().eval()
    inputs = data.test.inputs
    quantized = is_quantized(model.structure)
    source = convert(model) if quantized else module
    sample = inputs[:CHUNK]
    return Reference(
        outputs=outputs_of(source, inputs, spec),
        fake_quantized=outputs_of(module, inputs, spec) if quantized else None,
        labels=data.test.labels,
        class_names=data.spec.labels,
        preprocessing_error=_largest(spec.normalize(sample) - normalize(sample, data.spec)),
    )


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max())
