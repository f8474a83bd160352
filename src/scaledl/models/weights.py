"""Tensors of a module in a safetensors file, and back bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from scaledl.errors import UsageError
from scaledl.run import atomic_file

if TYPE_CHECKING:
    from collections.abc import Iterable

MEMORY_FORMAT = "memory_format"


def write_weights(module: nn.Module, path: Path) -> None:
    """Write the state dict; every tensor is cloned, since observers share theirs."""
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }
    # a single key: safetensors writes several in random order, and equal models shall have equal hashes
    metadata = {MEMORY_FORMAT: "channels_last" if is_channels_last(module) else "contiguous"}
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def is_channels_last(module: nn.Module) -> bool:
    """Whether a convolution's weights lie in memory as N, H, W, C: kernels, and so last bits, depend on it."""
    return any(
        p.dim() == 4 and p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous()
        for p in module.parameters()
    )


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill `module` from `path`. UsageErrors name the file and what does not fit."""
    tensors, metadata = read_tensors(path)
    expected = module.state_dict()
    _check_keys(path, tensors.keys(), expected.keys())
    _check_values(path, tensors, expected, {name for name, _ in module.named_parameters(remove_duplicate=False)})
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        detail = "; ".join(line.strip() for line in str(error).splitlines()[1:])
        raise UsageError(f"{path}: tensors do not fit the structure beside it: {detail}. {_SAME_RUN}") from None
    if metadata.get(MEMORY_FORMAT) == "channels_last":
        module.to(memory_format=torch.channels_last)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; cloned, because the file's are not aligned as torch's kernels are
    chosen by, which changes the last bits."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file; a saved model needs it beside its structure")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError, MemoryError) as error:
        size = path.stat().st_size
        raise UsageError(f"{path}: not a whole safetensors file ({size:,} bytes): {error}. {_SAME_RUN}") from None


def _check_keys(path: Path, got: Iterable[str], expected: Iterable[str]) -> None:
    missing, extra = sorted(set(expected) - set(got)), sorted(set(got) - set(expected))
    parts = [
        f"{len(names)} {word} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for word, names in (("missing", missing), ("unexpected", extra))
        if names
    ]
    if parts:
        raise UsageError(f"{path}: tensors do not fit the structure beside it: {' and '.join(parts)}. {_SAME_RUN}")


def _check_values(path: Path, got: Mapping[str, Tensor], expected: Mapping[str, Tensor], parameters: set[str]) -> None:
    for name, tensor in got.items():
        if tensor.dtype != expected[name].dtype:
            raise UsageError(f"{path}: {name} is {tensor.dtype}, expected {expected[name].dtype}. {_SAME_RUN}")
        if not tensor.is_floating_point():
            continue
        # an observer that has seen nothing holds infinities, a parameter never may
        if bool((~tensor.isfinite() if name in parameters else tensor.isnan()).any()):
            raise UsageError(
                f"{path}: {name} contains NaN or infinite values; the model is unusable. "
                "Take an earlier checkpoint or train again."
            )


_SAME_RUN = "Use structure.json and weights.safetensors that were saved together by one run."
