"""Saved models: a family, its config and the replayable history of structural changes, plus tensors. No pickle."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn

from scaledl.config.imported import import_named, untrusted
from scaledl.config.registry import CHANGES, FAMILIES
from scaledl.config.schema import ExternalConfig, ModelConfig
from scaledl.errors import UsageError
from scaledl.models.external import check_outputs, library_of, settled
from scaledl.models.resize import apply_difference, describe_difference
from scaledl.models.weights import load_weights, write_weights
from scaledl.run import atomic_json
from scaledl.runtime.signature import Inputs, Outputs

SCHEMA_VERSION = 2
STRUCTURE_FILE = "structure.json"
WEIGHTS_FILE = "weights.safetensors"
EXTERNAL = "external"
MAX_STRUCTURE_BYTES = 16 * 2**20

_MODEL_CONFIG: TypeAdapter[Any] = TypeAdapter(ModelConfig)
BUILD_ERRORS = (
    RuntimeError,
    MemoryError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    AssertionError,
)


@dataclass(frozen=True)
class Structure:
    """All that is needed to build a module again, without its tensors.

    `history` holds JSON-able changes, each with its kind under "op".
    """

    family: str
    config: dict[str, Any]
    inputs: Inputs
    outputs: Outputs
    history: tuple[dict[str, Any], ...] = ()

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    @property
    def imports(self) -> str:
        """The code of one's own that builds it, "python.path:name"; empty where there is none."""
        if ":" in self.family or "." in self.family:
            return self.family
        name = str(self.config.get("name", "")) if self.family == EXTERNAL else ""
        return "" if library_of(name) else name

    def then(self, change: dict[str, Any]) -> Structure:
        """This structure after one more change."""
        return dataclasses.replace(self, history=(*self.history, change))

    def to_json(self) -> dict[str, Any]:
        """The content of structure.json."""
        return {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, value: Any) -> Structure:
        """Read `to_json`'s value; a UsageError says what is wrong with it."""
        version = value.get("schema_version") if isinstance(value, dict) else None
        if version != SCHEMA_VERSION:
            raise UsageError(
                f"schema_version is {version!r}, this scaledl reads {SCHEMA_VERSION}; "
                "use the scaledl that wrote the model, or train again"
            )
        try:
            fields = {key: item for key, item in value.items() if key != "schema_version"}
            return _STRUCTURE.validate_python(fields)
        except ValidationError as error:
            raise UsageError(f"not a model structure: {_first_problem(error)}") from None


@dataclass(frozen=True)
class Model:
    """A module and the structure that builds it."""

    module: nn.Module
    structure: Structure


_STRUCTURE: TypeAdapter[Structure] = TypeAdapter(Structure)


def new_model(config: Any, inputs: Inputs | tuple[int, ...], outputs: Outputs | int, seed: int) -> Model:
    """A freshly initialised model of `config` (a ModelConfig section). The global generator is left as it was.

    A shape stands for the inputs that have it (`Inputs.of`), a number for so many outputs in a vector.

    Raises UsageError when the section names another number of classes than the data has.
    """
    inputs = inputs if isinstance(inputs, Inputs) else Inputs.of(inputs)
    outputs = outputs if isinstance(outputs, Outputs) else Outputs(outputs)
    if config.num_classes not in (None, outputs.count):
        raise UsageError(
            f"model.num_classes: got {config.num_classes}, the data has {outputs.count} classes. "
            "Remove the key or choose the data that it belongs to."
        )
    external = isinstance(config, ExternalConfig)
    if external:
        config = settled(config, inputs, outputs)
    structure = Structure(config.family, config.model_dump(mode="json", exclude={"pretrained"}), inputs, outputs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _build_family(structure, trust=True)
        if external:
            check_outputs(module, config, inputs, outputs)
    return Model(module, structure)


def build(structure: Structure, *, trust: bool = False) -> nn.Module:
    """Build the family and replay every change. Weights are arbitrary; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        module = _build_family(structure, trust=trust)
        done = dataclasses.replace(structure, history=())
        for change in structure.history:
            module = CHANGES.resolve(str(change.get("op")))(module, change, done)
            done = done.then(change)
    return module


def save_model(model: Model, directory: Path) -> list[str]:
    """Write structure.json and weights.safetensors into `directory`, each atomically; returns their names."""
    directory.mkdir(parents=True, exist_ok=True)
    write_weights(model.module, directory / WEIGHTS_FILE)
    atomic_json(directory / STRUCTURE_FILE, model.structure.to_json())
    return [STRUCTURE_FILE, WEIGHTS_FILE]


def load_model(directory: Path, *, trust: bool = False) -> Model:
    """The model that `save_model` wrote, in eval mode, with bit-equal outputs.

    A family given as an import path is refused unless `trust`. Anything that is damaged, foreign or does not fit
    raises a UsageError that names the file.
    """
    path = Path(directory) / STRUCTURE_FILE
    structure = read_structure(path)
    weights = path.parent / WEIGHTS_FILE
    try:
        _check_size(structure, weights, trust=trust)
        module = build(structure, trust=trust)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    except BUILD_ERRORS as error:
        raise UsageError(f"{path}: the structure cannot be built: {error}") from None
    load_weights(module, weights)
    return Model(module.eval(), structure)


def read_structure(path: Path) -> Structure:
    """The structure in `path`; a UsageError names the file."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file; expected the model folder of a finished run")
    if path.stat().st_size > MAX_STRUCTURE_BYTES:
        raise UsageError(f"{path}: {path.stat().st_size:,} bytes is no model structure")
    try:
        return Structure.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON: {error}") from None
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def resize_change(before: Structure, module: nn.Module) -> dict[str, Any]:
    """The change that leads from `before` to `module`, whose layers were resized or replaced by nn.Identity."""
    return {"op": "resize", **describe_difference(build(before, trust=True), module)}


def replay_resize(module: nn.Module, change: Mapping[str, Any], before: Structure) -> nn.Module:
    """Replay a `resize_change` on a fresh `module` of the structure `before`."""
    del before
    return apply_difference(module, change)


def _check_size(structure: Structure, weights: Path, *, trust: bool) -> None:
    """Refuse a structure that is far larger than its tensors, before any memory is taken for it."""
    resizes = tuple(itertools.takewhile(lambda change: change.get("op") == "resize", structure.history))
    with torch.device("meta"):
        module = build(dataclasses.replace(structure, history=resizes), trust=trust)
    needed = sum(tensor.nbytes for tensor in module.state_dict().values())
    if weights.is_file() and needed > weights.stat().st_size:
        raise UsageError(
            f"describes {needed:,} bytes of tensors, {weights.name} has {weights.stat().st_size:,}; "
            "they do not belong together, or the file is cut short"
        )


def _build_family(structure: Structure, *, trust: bool) -> nn.Module:
    """Call the family's builder. Code that the structure names is imported only with `trust`."""
    named = structure.imports
    if named and not trust:
        raise untrusted(named, "the model")
    if named == structure.family:
        module: nn.Module = import_named(named, named)(structure.config, structure.inputs, structure.outputs)
        return module
    builder = FAMILIES.resolve(structure.family)
    try:
        config = _MODEL_CONFIG.validate_python(structure.config)
    except ValidationError as error:
        raise UsageError(f"config: {_first_problem(error)}") from None
    if config.family != structure.family:
        raise UsageError(f"config.family is {config.family!r}, the structure's family is {structure.family!r}")
    built: nn.Module = builder(config, structure.inputs, structure.outputs)
    return built


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    return f"{key or 'value'}: got {problem.get('input')!r}: {problem['msg']}"
