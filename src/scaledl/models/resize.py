"""The attribute difference: how a module whose layers were resized is described, and made again from a fresh one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scaledl.errors import UsageError

SCALARS = (bool, int, float, str)
BOOKKEEPING = frozenset({"training", "_is_full_backward_hook"})


def describe_difference(original: nn.Module, module: nn.Module) -> dict[str, Any]:
    """What must be done to `original` to have the shape of `module`, as JSON-able values.

    Compares every int, float, bool, str and tuple attribute of every submodule, submodules that became `nn.Identity`,
    and the shapes of all parameters and buffers, non-persistent ones included. Raises ValueError where the two differ
    in another way, which could not be replayed.
    """
    targets = dict(module.named_modules())
    identities = sorted(_identities(original, targets))
    attributes = {}
    for name, source in original.named_modules():
        if _inside(name, identities):
            continue
        if type(targets[name]) is not type(source):
            raise ValueError(f"{name} is a {type(targets[name]).__name__} and was a {type(source).__name__}")
        if changed := _changed_attributes(source, targets[name]):
            attributes[name] = changed
    shapes = _changed_shapes(original, module, identities)
    return {"attributes": attributes, "identities": identities, "shapes": shapes}


def apply_difference(module: nn.Module, difference: Mapping[str, Any]) -> nn.Module:
    """Bring a fresh `module` to the recorded shape, in place; the values of resized tensors are undefined.

    Attributes must exist and keep their type, so that a description from elsewhere cannot plant anything.
    """
    for name in difference["identities"]:
        _owner(module, name)
        module.set_submodule(name, nn.Identity())
    for name, attributes in difference["attributes"].items():
        target = module.get_submodule(name)
        for key, value in attributes.items():
            _set_attribute(name, target, key, value)
    _resize_tensors(module, difference["shapes"])
    return module


def _identities(original: nn.Module, targets: Mapping[str, nn.Module]) -> Iterator[str]:
    for name, source in original.named_modules():
        missing = name not in targets
        if missing and not _under_identity(name, targets):
            raise ValueError(f"{name} is gone; a deleted layer has to be replaced by nn.Identity")
        if not missing and type(targets[name]) is nn.Identity and type(source) is not nn.Identity:
            yield name


def _under_identity(name: str, targets: Mapping[str, nn.Module]) -> bool:
    parts = name.split(".")
    parents = (".".join(parts[:i]) for i in range(1, len(parts)))
    return any(type(targets.get(parent)) is nn.Identity for parent in parents)


def _inside(name: str, identities: list[str]) -> bool:
    return any(name == identity or name.startswith(identity + ".") for identity in identities)


def _changed_attributes(source: nn.Module, target: nn.Module) -> dict[str, Any]:
    values = vars(target)
    return {
        key: value
        for key, old in vars(source).items()
        if key not in BOOKKEEPING
        and isinstance(old, (*SCALARS, tuple))
        and isinstance(value := values.get(key), (*SCALARS, tuple))
        and (type(old) is not type(value) or old != value)
    }


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _changed_shapes(original: nn.Module, module: nn.Module, identities: list[str]) -> dict[str, list[int]]:
    old = {name: tensor for name, tensor in _tensors(original) if not _inside(name, identities)}
    new = dict(_tensors(module))
    if old.keys() != new.keys():
        raise ValueError(f"tensors were added or removed: {sorted(old.keys() ^ new.keys())}")
    return {name: list(tensor.shape) for name, tensor in new.items() if tensor.shape != old[name].shape}


def _set_attribute(name: str, target: nn.Module, key: str, value: Any) -> None:
    old = vars(target).get(key)
    new = _tuples(value)
    if key in BOOKKEEPING or not isinstance(old, (*SCALARS, tuple)) or type(old) is not type(new):
        raise UsageError(f"{name}.{key} cannot be set to {value!r}: the layer has no such attribute of that type")
    setattr(target, key, new)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _owner(module: nn.Module, name: str) -> nn.Module:
    if not name:
        raise UsageError("the whole model cannot be replaced by nn.Identity")
    return module.get_submodule(name)


def _resize_tensors(module: nn.Module, shapes: Mapping[str, list[int]]) -> None:
    resized: dict[int, Tensor] = {}  # tied tensors stay tied
    for name, shape in shapes.items():
        path, _, key = name.rpartition(".")
        owner = module.get_submodule(path)
        old = getattr(owner, key)
        if not isinstance(old, Tensor):
            raise UsageError(f"{name} is not a tensor of this model")
        if id(old) not in resized:
            resized[id(old)] = _resized(old, shape)
        setattr(owner, key, resized[id(old)])


def _resized(old: Tensor, shape: list[int]) -> Tensor:
    tensor = torch.empty(shape, dtype=old.dtype)
    return nn.Parameter(tensor, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else tensor
