"""What a source may not hand over."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scaledl.data.arrays import IGNORED, NO_CLASS, RawData, Target
from scaledl.errors import UsageError
from scaledl.runtime.signature import KINDS

_ALLOWED = {(torch.uint8, "image"), (torch.float32, "table"), (torch.float32, "series")}


def check_raw(raw: RawData, source: str) -> None:
    """Raises UsageError that names the part which is wrong."""
    parts = [("training", raw.inputs, raw.labels), ("test", raw.test_inputs, raw.test_labels)]
    if raw.val_inputs is not None and raw.val_labels is not None:
        parts.append(("validation", raw.val_inputs, raw.val_labels))
    for name, inputs, labels in parts:
        known = labels != NO_CLASS if name == "training" and raw.target == "class" else None
        if problem := _problem(inputs, labels, len(raw.label_names), raw.target, known):
            raise UsageError(f"data.source: {source}, {name} set: {problem}")
        if raw.inputs.shape[1:] != inputs.shape[1:]:
            sizes = tuple(raw.inputs.shape[1:]), tuple(inputs.shape[1:])
            raise UsageError(f"data.source: {source}: training inputs are {sizes[0]}, {name} inputs {sizes[1]}")
    if raw.columns and (len(raw.columns),) != tuple(raw.inputs.shape[1:]):
        raise UsageError(
            f"data.source: {source}: {len(raw.columns)} names of columns, inputs {tuple(raw.inputs.shape)}"
        )


def _problem(inputs: Tensor, labels: Tensor, count: int, target: Target, known: Tensor | None) -> str | None:
    if (inputs.dtype, KINDS.get(inputs.ndim - 1)) not in _ALLOWED:
        return (
            f"inputs are {inputs.dtype} with {inputs.ndim} dimensions, expected torch.uint8 [N, H, W, C], or "
            "torch.float32 [N, F] or [N, C, T]"
        )
    if len(labels) != len(inputs) or not len(labels):
        return f"{len(inputs)} inputs, labels {labels.dtype} {tuple(labels.shape)}; expected one for each"
    wanted = _SHAPES[target](inputs, count)
    if labels.dtype not in _DTYPES[target] or tuple(labels.shape[1:]) != wanted:
        return (
            f"labels are {labels.dtype} {tuple(labels.shape)}; expected of target {target}: {_DTYPES[target][0]} "
            f"{[len(labels), *wanted]}"
        )
    if problem := _problem_of_values(labels if known is None else labels[known], count, target):
        return problem
    if inputs.is_floating_point() and not bool(inputs.isfinite().all()):
        return "some inputs are NaN or infinite"
    return None


def _problem_of_values(labels: Tensor, count: int, target: Target) -> str | None:
    if target == "numbers":
        if bool(labels.isinf().any()):
            return "some labels are infinite"
        absent = labels.isnan()
        if bool(absent.all(0).any()):
            return "a number is NaN in all samples; expected: at least one of them has it"
        return "a sample has NaN for all of its numbers; expected: one at least" if bool(absent.all(1).any()) else None
    if target == "classes":
        return None if bool(((labels == 0) | (labels == 1)).all()) else "labels have other values than 0 and 1"
    known = labels[labels != IGNORED] if target in ("tags", "mask") else labels
    if target == "class" and not len(known):
        return "no sample has a label"
    low, high = (int(known.min()), int(known.max())) if len(known) else (0, 0)
    if low < 0 or high >= max(count, 1):
        return f"labels run from {low} to {high}, but there are {count} class names"
    return None


_INT, _FLOAT = (torch.int64,), (torch.float32,)
_DTYPES: dict[Target, tuple[torch.dtype, ...]] = {
    **{"class": _INT, "tags": _INT, "none": _INT, "mask": (torch.int64, torch.int16)},
    **{"classes": _FLOAT, "numbers": _FLOAT},
}
_SHAPES: dict[Target, Callable[[Tensor, int], tuple[int, ...]]] = {
    "class": lambda inputs, count: (),
    "none": lambda inputs, count: (),
    "classes": lambda inputs, count: (count,),
    "numbers": lambda inputs, count: (count,),
    "tags": lambda inputs, count: (inputs.shape[-1],) if inputs.ndim == 3 else (-1,),
    "mask": lambda inputs, count: tuple(inputs.shape[1:3]) if inputs.dtype == torch.uint8 else (-1,),
}
