"""What is inside a checkpoint: read without pickle, compared with the model."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scaledl.errors import UsageError

_PARTS = ("state_dict", "optimizer_states", "callbacks", "loops", "val_metrics")
_REMEDY = "move it and its .json away to go on from the one before, or start another run with its own run.id"


def read_checkpoint(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    """Load tensors and plain values; anything else (a pickled object) is refused unexecuted.

    `mapped`: tensors stay in the file until they are looked at, and are not to be kept.

    Raises:
        UsageError: the file is not such a checkpoint.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the foreign pickle protocol of what is refused anyway
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        # torch's own message recommends weights_only=False, which would execute what is in there
        raise _foreign(path, "it holds pickled objects other than tensors and plain values, or is no pickle") from error
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [""])[0]
        raise _foreign(path, f"it cannot be read ({type(error).__name__}: {first_line})") from error
    missing = [part for part in _PARTS if part not in checkpoint] if isinstance(checkpoint, dict) else list(_PARTS)
    if missing:
        raise _foreign(path, f"it has no {', '.join(missing)}")
    return checkpoint  # type: ignore[no-any-return]


def _foreign(path: Path, reason: str) -> UsageError:
    return UsageError(f"{path} is not a scaledl checkpoint: {reason}; {_REMEDY}")


def check_plain(checkpoint: Mapping[str, Any]) -> None:
    """Refuse state of callbacks and schedulers that `read_checkpoint` would refuse to read again. Raises UsageError."""
    for part in ("callbacks", "lr_schedulers"):
        if found := _odd(checkpoint.get(part), part):
            raise UsageError(
                f"{found}; checkpoints hold tensors and plain values alone, so its state_dict() has to give such"
            )


def _odd(value: Any, where: str) -> str:
    if isinstance(value, Mapping):
        return next((found for key, item in value.items() if (found := _odd(item, f"{where}.{key}"))), "")
    if isinstance(value, list | tuple):
        return next((found for item in value if (found := _odd(item, where))), "")
    plain = value is None or isinstance(value, Tensor | bool | int | float | str | bytes)
    return "" if plain else f"{where} is a {type(value).__module__}.{type(value).__name__}"


def check_fit(path: Path, state: Mapping[str, Tensor], module: nn.Module) -> None:
    """Compare a checkpoint's weights with the module that they are for.

    Raises:
        UsageError: missing or unexpected names, other shapes of parameters, NaN or infinite parameters.
    """
    expected, parameters = module.state_dict(), dict(module.named_parameters())
    for word, names in (("lacks", expected.keys() - state.keys()), ("also has", state.keys() - expected.keys())):
        if names:
            raise _misfit(path, f"it {word} {', '.join(sorted(names)[:3])}{', …' if len(names) > 3 else ''}")
    for name, parameter in parameters.items():
        shape = getattr(parameter, "ds_shape", parameter.shape)  # of the whole, where DeepSpeed has cut it up
        if state[name].shape != shape:
            raise _misfit(path, f"{name} is {list(state[name].shape)} there and {list(shape)} here")
        if not bool(state[name].isfinite().all()):
            raise UsageError(f"{path}: {name} contains NaN or infinite values; {_REMEDY}")


def _misfit(path: Path, reason: str) -> UsageError:
    return UsageError(f"{path} is of another model than the config describes: {reason}; {_REMEDY}")
