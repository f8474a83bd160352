"""Where the tensors that a model begins with come from: a file, a run, or the library that has the model."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scaledl.console import get_console
from scaledl.errors import UsageError
from scaledl.models.ends import shapes_of, vocabulary_names
from scaledl.models.library_weights import LIBRARIES, library_tensors
from scaledl.models.pretrained import Report, Tensors, load_into_
from scaledl.models.quantized import is_quantized
from scaledl.models.run_tokenizer import has_other_ids, tokenizer_word
from scaledl.models.structure import (
    BUILD_ERRORS,
    STRUCTURE_FILE,
    WEIGHTS_FILE,
    Model,
    Structure,
    build,
    read_structure,
)
from scaledl.models.weights import read_tensors
from scaledl.run import Run, find_run, sha256_file

FILES = (".safetensors", ".pt", ".pth", ".bin")
_NESTED = ("state_dict", "model", "model_state_dict")
_KINDS = ("train", "compress", "stage")


def begin_with_(
    model: Model, source: str, *, head: str, labels: tuple[str, ...], root: Path, seed: int, tokenizer: str = ""
) -> tuple[Model, Report, Run | None]:
    """The fresh `model` filled from `source` (`model.pretrained`), what became of each tensor, and the run it is of.

    A run whose model was pruned gives its widths along.

    Args:
        head: `transfer.head`.
        labels: names of the classes that are wanted now.
        root: folder of all runs.
        tokenizer: JSON of the data's, where they are texts.

    Raises:
        UsageError: no such source, one that is damaged or quantized, or of another model.
    """
    if source in LIBRARIES:
        return model, load_into_(model, library_tensors(model.structure, source), head), None
    if source.endswith(FILES):
        return model, load_into_(model, _of_file(Path(source).expanduser()), head), None
    if Path(source).expanduser().is_file():
        raise UsageError(
            f"model.pretrained: got the file {source}; allowed: a run, or a file of tensors that ends with "
            f"{', '.join(FILES)}; fix: rename it if it is one"
        )
    try:
        run = find_run(source, root, kinds=_KINDS)
    except UsageError as error:
        raise UsageError(f"model.pretrained: {error}") from error
    model, found = _of_run(model, run, labels, seed, tokenizer)
    return model, load_into_(model, found, head), run


def _of_file(path: Path) -> Tensors:
    if not path.is_file():
        raise UsageError(f"model.pretrained: {path}: no such file")
    values = read_tensors(path)[0] if path.suffix == ".safetensors" else _unpickled(path)
    return Tensors(str(path), values, sha256_file(path))


def _unpickled(path: Path) -> dict[str, Tensor]:
    """What torch.save wrote, as long as it is tensors and plain values: nothing in it is executed."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UsageError(
            f"model.pretrained: {path} holds more than tensors and plain values, and such files run code when they are "
            "read; save its state_dict() alone, best as .safetensors"
        ) from None
    except Exception as error:  # whatever a damaged file does
        raise UsageError(f"model.pretrained: {path} cannot be read: {type(error).__name__}: {error}") from None
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    values = {str(name): value for name, value in content.items()} if isinstance(content, Mapping) else {}
    if not values or not all(isinstance(value, Tensor) for value in values.values()):
        raise UsageError(f"model.pretrained: {path} holds no tensors by name, as model.state_dict() has them")
    return values


def _of_run(model: Model, run: Run, labels: tuple[str, ...], seed: int, tokenizer: str) -> tuple[Model, Tensors]:
    run.verify_files("model")
    theirs, ours = read_structure(run.model_dir / STRUCTURE_FILE), model.structure
    if is_quantized(theirs):
        raise UsageError(
            f"model.pretrained: the model of {run.path} is quantized; begin with the run that it was made from"
        )
    if theirs.family != ours.family:
        raise UsageError(
            f"model.family: got {ours.family}, and the model of {run.path} is a {theirs.family}; allowed with "
            f"model.pretrained={run.label}: {theirs.family}"
        )
    values, _ = read_tensors(run.model_dir / WEIGHTS_FILE)
    same_form = theirs.outputs.form == ours.outputs.form
    other = not same_form or _labels_of(run) not in (None, labels)
    anew = vocabulary_names(ours) if _reads_other_ids(run, theirs, ours, tokenizer) else frozenset[str]()
    found = Tensors(str(run.path), values, run.as_parent().sha256, other_outputs=other, whole=same_form, anew=anew)
    return (_resized(model, theirs, run, seed) if theirs.history else model), found


def _reads_other_ids(run: Run, theirs: Structure, ours: Structure, tokenizer: str) -> bool:
    """Whether the embeddings of the run belong to other tokens, which is said."""
    other = has_other_ids(run, tokenizer) or theirs.inputs.moved != ours.inputs.moved
    if other:
        get_console().warn(
            f"model.pretrained: {run.path} was trained with another tokenizer, so embeddings begin anew; to keep them: "
            f"data.text.tokenizer={tokenizer_word(run)}"
        )
    return other


def _labels_of(run: Run) -> tuple[str, ...] | None:
    """The classes that the run was evaluated on; None where it does not say."""
    try:
        return tuple(json.loads((run.path / "evaluation.json").read_bytes())["labels"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _resized(model: Model, theirs: Structure, run: Run, seed: int) -> Model:
    """The model with the widths that pruning left to theirs; what begins anew is initialised for them."""
    try:
        structure = dataclasses.replace(model.structure, history=_history(model.structure, theirs))
        module = build(structure, trust=True)
    except (UsageError, *BUILD_ERRORS) as error:
        raise UsageError(
            f"model.pretrained: the model of {run.path} was pruned, and is of another kind than model describes: "
            f"{error}"
        ) from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module.apply(_initialise_)
    return Model(module, structure)


def _history(ours: Structure, theirs: Structure) -> tuple[dict[str, Any], ...]:
    """Their changes, with our sizes where inputs or outputs decide them: those pruning never touches."""
    now, before = shapes_of(ours), shapes_of(theirs)

    def ours_of(name: str, shape: list[int]) -> list[int]:
        pairs = zip(shape, now[name], before[name], strict=True)
        return [mine if mine != theirs_there else size for size, mine, theirs_there in pairs]

    return tuple(
        {**change, "shapes": {name: ours_of(name, shape) for name, shape in change["shapes"].items()}}
        for change in theirs.history
    )


def _initialise_(part: nn.Module) -> None:
    reset: Any = getattr(part, "reset_parameters", None)
    if callable(reset):
        return reset()  # type: ignore[no-any-return]
    for parameter in part.parameters(recurse=False):  # tokens and positions, as transformers begin with them
        nn.init.trunc_normal_(parameter, std=0.02)
    return None
