"""Weights that a library has for a model: fetched, or from its cache or a folder, and told apart by what it did."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from scaledl.config.schema import ExternalConfig
from scaledl.errors import UsageError
from scaledl.models import huggingface
from scaledl.models.external import library_of
from scaledl.models.pretrained import Tensors
from scaledl.models.structure import EXTERNAL, Structure

_CACHES = {"timm": "HF_HOME (or TORCH_HOME)", "torchvision": "TORCH_HOME", "hf": "HF_HOME"}


def library_tensors(structure: Structure, library: str) -> Tensors:
    """The tensors that `library` has for the structure's name, for its inputs and outputs.

    Raises UsageError when the model is none of the library's, or it has no weights, or they cannot be had.
    """
    name = str(structure.config.get("name", ""))
    if structure.family != EXTERNAL or library_of(name) != library:
        got = f"model.name={name}" if name else f"model.family={structure.family}"
        raise UsageError(
            f"model.pretrained: got {library} with {got}; allowed: with model.family=external and "
            f"model.name={library}:NAME"
        )
    config = ExternalConfig.model_validate(structure.config)
    try:
        with torch.random.fork_rng(devices=[]):
            return LIBRARIES[library](config, structure)
    except UsageError:
        raise
    except Exception as error:  # of the network, of the hub, of a file: each library has its own
        raise UsageError(
            f"model.pretrained: got {library}, and the weights of {config.name} cannot be had: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}; allowed: what the library fetches, or has in its cache; fix: "
            f"without the network, fill {_CACHES[library]} where there is one, or model.pretrained=FILE.safetensors"
        ) from error


def _of_timm(config: ExternalConfig, structure: Structure) -> Tensors:
    """timm adapts the first convolution and leaves out the classifier by itself."""
    import timm

    given: dict[str, Any] = {"in_chans": structure.inputs.shape[0], "num_classes": structure.outputs.count}
    with huggingface.reaching_hub(), _patience():
        module: Any = timm.create_model(config.name.partition(":")[2], pretrained=True, **given, **config.args)
    known, values = module.pretrained_cfg, module.state_dict()
    heads = _named(known.get("classifier")) if known.get("num_classes") != given["num_classes"] else ()
    first = _named(known.get("first_conv")) if known["input_size"][0] != given["in_chans"] else ()
    return Tensors(
        f"{known['architecture']}.{known.get('tag') or 'timm'} of timm",
        values,
        anew=frozenset(name for name in values if name.startswith(tuple(f"{head}." for head in heads))),
        adapted=frozenset(f"{name}.weight" for name in first),
    )


@contextmanager
def _patience() -> Iterator[None]:
    """torch.hub would wait for ever for a server that does not answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(huggingface.SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _named(value: Any) -> Iterable[str]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)


def _of_torchvision(config: ExternalConfig, structure: Structure) -> Tensors:
    from torchvision import models

    name = config.name.partition(":")[2]
    with _patience():
        module = models.get_model(name, weights="DEFAULT", progress=False, **config.args)
    prefix = "model." if structure.outputs.form == "pixels" else ""  # behind our wrapper
    values = {f"{prefix}{key}": value for key, value in module.state_dict().items()}
    return Tensors(f"{models.get_model_weights(name).DEFAULT} of torchvision", values)


def _of_huggingface(config: ExternalConfig, structure: Structure) -> Tensors:
    """transformers finds the part of a larger or a smaller model by itself."""
    from transformers import CONFIG_MAPPING

    name = config.name.partition(":")[2]
    folder = Path(name).expanduser()
    if not folder.is_dir() and name in CONFIG_MAPPING:
        raise UsageError(f"model.pretrained: hf:{name} is a kind of model and has no weights; name a model or a folder")
    with huggingface.quiet(), nullcontext() if folder.is_dir() else huggingface.reaching_hub():
        library_config = huggingface.config_of(config, structure.outputs)
        make = huggingface.model_class(library_config, structure.inputs, structure.outputs, config.name)
        options = {"use_safetensors": True, "trust_remote_code": False, "local_files_only": folder.is_dir()}
        model, told = make.from_pretrained(
            str(folder) if folder.is_dir() else name,
            config=library_config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    anew = {f"model.{key}" for key in (*told["missing_keys"], *(entry[0] for entry in told["mismatched_keys"]))}
    values = {f"model.{key}": value for key, value in model.state_dict().items()}
    extra = {f"model.{key}": torch.empty(0) for key in told["unexpected_keys"]}  # for the report
    return Tensors(f"{name} of Hugging Face", {**extra, **values}, anew=frozenset(anew & values.keys()))


LIBRARIES: dict[str, Callable[[ExternalConfig, Structure], Tensors]] = {
    "timm": _of_timm,
    "torchvision": _of_torchvision,
    "hf": _of_huggingface,
}
