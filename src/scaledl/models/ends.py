"""Which tensors of a model depend on its outputs (the head), and which on its inputs (the first layer)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from scaledl.errors import UsageError
from scaledl.models.structure import BUILD_ERRORS, Structure, build
from scaledl.runtime.signature import Inputs


def head_names(structure: Structure) -> frozenset[str]:
    """Tensors that have another shape when the model gives another number of outputs."""
    outputs = dataclasses.replace(structure.outputs, count=structure.outputs.count + 1)
    return _changed(structure, dataclasses.replace(structure, outputs=outputs))


def first_names(structure: Structure) -> frozenset[str]:
    """Tensors that have another shape for inputs of other sizes."""
    others = (dataclasses.replace(structure, inputs=inputs) for inputs in _other_inputs(structure.inputs))
    return frozenset[str]().union(*(_changed(structure, other) for other in others))


def vocabulary_names(structure: Structure) -> frozenset[str]:
    """Tensors with a row for each token: embeddings, and the head where outputs are tokens."""
    inputs, outputs = structure.inputs, structure.outputs
    if inputs.kind != "text":
        return frozenset()
    of_tokens = int(outputs.count == inputs.vocabulary)
    return _changed(
        structure,
        dataclasses.replace(
            structure,
            inputs=dataclasses.replace(inputs, vocabulary=inputs.vocabulary + 1),
            outputs=dataclasses.replace(outputs, count=outputs.count + of_tokens),
        ),
    )


def shapes_of(structure: Structure) -> dict[str, tuple[int, ...]]:
    """Of every tensor of the model as it is built, before any change. No memory is taken for them."""
    with torch.device("meta"):
        module = build(dataclasses.replace(structure, history=()), trust=True)
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _changed(structure: Structure, other: Structure) -> frozenset[str]:
    try:
        before, after = shapes_of(structure), shapes_of(other)
    except (UsageError, *BUILD_ERRORS):  # it is not made for such
        return frozenset()
    return frozenset(name for name, shape in before.items() if after.get(name) != shape)


def _other_inputs(inputs: Inputs) -> Iterator[Inputs]:
    """In each of its sizes something larger, one at a time."""
    for dimension in range(len(inputs.shape)):
        shape = tuple(size * (2 if place == dimension else 1) for place, size in enumerate(inputs.shape))
        if inputs.categories:
            shape = (inputs.shape[0] + 1,)
        yield dataclasses.replace(inputs, shape=shape)
    if inputs.kind == "text":
        yield dataclasses.replace(inputs, vocabulary=inputs.vocabulary + 1)
