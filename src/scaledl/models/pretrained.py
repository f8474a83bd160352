"""Tensors that a model begins with: matched by name, the head replaced, the first layer adapted, and all of it told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from scaledl.errors import UsageError
from scaledl.models.ends import first_names, head_names
from scaledl.models.structure import Model

_SHOWN = 3
_POSITIONS = "positions.table"  # of our transformers for texts and series, [T, width]
_PREFIXES = ("module.", "model.", "backbone.")
LEAST_SHARE = 0.5  # of the tensors besides the head: below it, it is another model


@dataclass(frozen=True)
class Tensors:
    """What was found to begin with.

    Attributes:
        where: for messages and the report.
        values: by name.
        sha256: of the file, or of a run's model; None for what a library fetched.
        other_outputs: whether its outputs are known to mean something else than those that are wanted now.
        whole: whether everything but the head must be in it.
        anew, adapted: names that the library itself has replaced, or adapted, for our model.
    """

    where: str
    values: dict[str, Tensor]
    sha256: str | None = None
    other_outputs: bool = False
    whole: bool = False
    anew: frozenset[str] = frozenset()
    adapted: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Report:
    """Names of tensors by what became of them.

    loaded: as they were. adapted: a first layer for another number of channels, positions of another number of steps.
    replaced: they have another size or meaning, and begin anew. fresh: not in the source, and begin anew. left: in the
    source, and not in the model.
    """

    source: str
    sha256: str | None
    loaded: tuple[str, ...]
    adapted: tuple[str, ...]
    replaced: tuple[str, ...]
    fresh: tuple[str, ...]
    left: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values; tuples become lists."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def lines(self) -> list[str]:
        """For the console."""
        parts = [f"{len(self.loaded)} tensors loaded"]
        for words in ("adapted", "replaced", "fresh", "left"):
            names = getattr(self, words)
            if names:
                parts.append(f"{len(names)} {words} ({_shown(names)})")
        return [f"begins with {self.source}: {'; '.join(parts)}"]


@torch.no_grad()
def load_into_(model: Model, found: Tensors, head: str = "auto") -> Report:
    """Fill the fresh `model` with what fits; what does not keeps its initial values.

    Args:
        head: auto, keep or replace, as `transfer.head`.

    Raises:
        UsageError: a tensor that is neither of the head nor of the first layer has another shape; hardly anything
            fits; a value is not finite; the head is to be kept and has another size.
    """
    target = model.module.state_dict()
    source = _aligned(found.values, target)
    ends = Ends(head_names(model.structure), first_names(model.structure), head, found)
    fates = {name: ends.fate(name, source[name], place) for name, place in target.items() if name in source}
    misfits = {
        name: f"{name} is {list(source[name].shape)} there and {list(target[name].shape)} here"
        for name, fate in fates.items()
        if fate == "misfit"
    }
    if misfits:
        said = _shown(misfits.values(), "; ")
        if misfits.keys() <= ends.of_head:
            raise UsageError(f"transfer.head: got {head}, and {said} ({found.where}); allowed: auto, replace")
        raise UsageError(f"model.pretrained: {found.where} is of another model: {said}")
    fresh = tuple(name for name in target if name not in source)
    _check_share(found, target.keys() - ends.of_head - ends.of_first, fates.keys())
    for name, fate in fates.items():
        if fate != "replaced":
            value = _finite(source[name], name, found.where)
            _fill_(target[name], value)
    loaded, adapted, replaced = (
        tuple(name for name in fates if fates[name] == fate) for fate in ("loaded", "adapted", "replaced")
    )
    left = tuple(sorted(source.keys() - target.keys()))
    return Report(found.where, found.sha256, loaded, adapted, replaced, fresh, left)


@dataclass(frozen=True)
class Ends:
    """What decides on the tensors at both ends of a model: those of the head, and of the first layer."""

    of_head: frozenset[str]
    of_first: frozenset[str]
    head: str
    found: Tensors

    def fate(self, name: str, value: Tensor, place: Tensor) -> str:
        """loaded, adapted, replaced or misfit."""
        fits = value.shape == place.shape
        if name in self.found.anew or (name in self.of_head and self._begins_anew(fits)):
            return "replaced"
        if fits:
            return "adapted" if name in self.found.adapted else "loaded"
        if name not in self.of_first:
            return "misfit"
        return "adapted" if is_channels(value, place) or _is_of_steps(name, value, place) else "replaced"

    def _begins_anew(self, fits: bool) -> bool:
        return self.head == "replace" or (self.head == "auto" and (self.found.other_outputs or not fits))


def is_channels(value: Tensor, place: Tensor) -> bool:
    """Whether two weights are convolutions of one another but for the number of input channels."""
    return value.ndim == place.ndim >= 3 and value.shape[0] == place.shape[0] and value.shape[2:] == place.shape[2:]


def _is_of_steps(name: str, value: Tensor, place: Tensor) -> bool:
    """Whether two tables of positions are of one width, for another number of steps."""
    return name.endswith(_POSITIONS) and value.ndim == place.ndim == 2 and value.shape[1] == place.shape[1]


def _fill_(place: Tensor, value: Tensor) -> None:
    """As it is, with other channels, or the positions that both have: later ones keep their initial values."""
    if value.shape == place.shape:
        place.copy_(value)
    elif is_channels(value, place):
        place.copy_(with_channels(value, place.shape[1]))
    else:
        steps = min(len(value), len(place))
        place[:steps].copy_(value[:steps])


def with_channels(weight: Tensor, channels: int) -> Tensor:
    """A first convolution [O, I, ...] for another number of input channels, as timm does it: of one channel the sum,
    else the channels repeated, and scaled so that outputs stay as large.

    >>> with_channels(torch.tensor([[[1.0], [2.0], [3.0]]]), 1).flatten().tolist()
    [6.0]
    >>> with_channels(torch.tensor([[[3.0]]]), 3).flatten().tolist()
    [1.0, 1.0, 1.0]
    """
    known = weight.shape[1]
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    repeats = [1, -(-channels // known), *[1] * (weight.ndim - 2)]
    return weight.repeat(repeats)[:, :channels] * (known / channels)


def _aligned(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The source's names as the model has them, where all of them differ by what stands before."""
    ways: list[dict[str, Tensor]] = [dict(source)]
    for prefix in _PREFIXES:
        ways.append({name.removeprefix(prefix): value for name, value in source.items()})
        ways.append({f"{prefix}{name}": value for name, value in source.items()})
    return max(ways, key=lambda names: len(names.keys() & target.keys()))


def _finite(value: Tensor, name: str, where: str) -> Tensor:
    if value.is_floating_point() and not bool(value.isfinite().all()):
        raise UsageError(f"model.pretrained: {where}: {name} contains NaN or infinite values")
    return value


def _check_share(found: Tensors, wanted: set[str], had: Iterable[str]) -> None:
    """Of another model hardly any tensor has the name that is wanted here."""
    missing = wanted - set(had)
    share = 1 - len(missing) / max(1, len(wanted))
    if share < (1 if found.whole else LEAST_SHARE):
        raise UsageError(
            f"model.pretrained: {found.where} is of another model: it has {len(wanted) - len(missing)} of the "
            f"{len(wanted)} tensors between first layer and head, and not {_shown(sorted(missing))}"
        )


def _shown(names: Iterable[str], between: str = ", ") -> str:
    names = list(names)
    return between.join(names[:_SHOWN]) + (f"{between}… ({len(names)} in all)" if len(names) > _SHOWN else "")
